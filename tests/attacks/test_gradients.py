"""White-box attacks: gradients per sample, their sketches and groups, and an optimiser that keeps samples apart."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.linalg import vector_norm

from raymia.attacks.gradient import Gradient
from raymia.attacks.gradient_masking import GradientMasking, largest
from raymia.attacks.noise_optimisation import NoiseOptimisation
from raymia.replica import backward
from raymia.replica.families import FAMILIES, LoadOptions
from raymia.replica.folder import find_pipeline, load_replica
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.replica.parameter_groups import UNET_GROUPS, unet_group
from raymia.replica.protocol import Replica
from raymia.replica.schedule import mix
from raymia.trial.lbfgs import minimise
from raymia.trial.sketch import add_to_sketch
from raymia.trial.trial import Trial, mean_squared
from tests.attacks.replicas import MEAN, LinearReplica, gain, random_images, trial
from tests.replica.test_every_family import cases, loaded


def loop_gradients(replica: Replica, subject: Trial, passes: list[tuple[int, int]]) -> list[list[Tensor]]:
    """Plain autograd, one sample and one pass at a time: the gradient of L by every parameter, and by z_0 at the end."""
    unet = replica._denoiser.requires_grad_(True)
    found = []
    for i in range(len(subject.images)):
        z0 = subject.latents[i : i + 1].clone().requires_grad_(True)
        losses = []
        for t, draw in passes:
            noise = subject.noise(draw)[i : i + 1]
            z = mix(subject.schedule, z0, noise, t)
            losses.append((noise - replica.predicted_noise(z, t, subject.text()[i : i + 1])).square().mean())
        found.append(list(torch.autograd.grad(torch.stack(losses).mean(), [*unet.parameters(), z0])))
    unet.requires_grad_(False)
    return found


@pytest.mark.parametrize(("micro_batch", "noise", "second"), [(1, "own", 1), (2, "shared", 0), (16, "own", 1)])
def test_gradients_of_a_real_unet_agree_with_a_plain_loop(tiny: Path, micro_batch: int, noise: str, second: int) -> None:
    replica = load_replica(str(tiny), LoadOptions(resolution_px=64))
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(3)) * 2 - 1
    subject = Trial(replica, images, ["a", "small picture", ""], ["x", "y", "z"], seed=1)
    parameters = {"timesteps": (100, 300), "direction_draws": 2, "sketch_size": 65536}
    attack = Gradient.model_validate({**parameters, "micro_batch": micro_batch, "noise": noise})
    scores = attack.score(subject)
    assert subject.evaluations.backwards == 3 * attack.cost().backwards == 3 * 3, "a draw of the mean is one of a direction's"
    names = [*replica.parameters(), "z0"]
    for i, gradients in enumerate(loop_gradients(replica, subject, [(100, 0), (300, second)])):
        by_name = dict(zip(names, gradients, strict=True))
        by_input = by_name.pop("z0")
        whole = math.sqrt(sum(float(g.double().square().sum()) for g in by_name.values()))
        assert -float(scores["gradient"][i]) == pytest.approx(whole, rel=1e-4)
        assert -float(scores["gradient.input"][i]) == pytest.approx(float(by_input.norm()), rel=1e-4)
        for group in UNET_GROUPS:
            squares = [float(g.double().square().sum()) for name, g in by_name.items() if unet_group(name) == group]
            assert -float(scores[f"gradient.{group}"][i]) == pytest.approx(math.sqrt(sum(squares)), rel=1e-4), group
    draws = [loop_gradients(replica, subject, [(300, draw)]) for draw in (0, 1)]
    for i in range(3):
        one, other = (torch.cat([g.flatten() for g in draw[i][:-1]]).double() for draw in draws)
        cosine = float(one @ other / one.norm() / other.norm())
        assert -float(scores["gradient.direction"][i]) == pytest.approx(cosine, abs=4 / math.sqrt(65536))


def plain(
    replica: LatentDiffusion, subject: Trial, places: list[tuple[int, int]], row: int
) -> tuple[dict[str, Tensor], Tensor]:
    """`backward` of one evaluation after the other: the sums of the weighted mean's gradients by parameters and by z_0."""
    parameters = replica.parameters()
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    z0 = subject.latents[row : row + 1].clone().requires_grad_(True)
    for t, draw in places:
        noise = subject.noise(draw)[row : row + 1]
        predicted = replica.predicted_noise(mix(subject.schedule, z0, noise, t), t, subject.text()[row : row + 1])
        (subject.error_weight(t) * (noise - predicted).square().mean() / len(places)).backward()
    unused = torch.zeros(())
    found = {name: unused if one.grad is None else one.grad.double() for name, one in parameters.items()}
    for parameter in parameters.values():
        parameter.requires_grad_(False)
        parameter.grad = None
    return found, z0.grad


@pytest.mark.parametrize("name", FAMILIES.names())
def test_in_every_family_samples_together_and_alone_agree_with_a_plain_loop(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = cases()[name]
    replica = loaded(find_pipeline(str(case.save(tmp_path / "p")), with_weights=True), case)
    images, captions = random_images(2, case.side_px), list(case.prompts)
    attack = Gradient(timesteps=(100, 400), direction_draws=2, direction_timestep=100, sketch_size=512)
    trials = [Trial(replica, images, captions, ["a", "b"], seed=1) for _ in range(2)]
    together = attack.score(trials[0])
    monkeypatch.setattr(backward, "TOGETHER_GIB", 0)
    alone = attack.score(trials[1])
    # A draw that is both of the mean and a direction's is evaluated twice where samples are taken alone.
    assert trials[0].evaluations.backwards == 2 * 3
    assert trials[1].evaluations.forwards == trials[1].evaluations.backwards == 2 * 4
    assert not any(one.requires_grad or one.grad is not None for one in replica.parameters().values())
    for row in range(2):
        by_name, by_input = plain(replica, trials[0], [(100, 0), (400, 1)], row)
        expected = {"gradient": norm_of(by_name.values()), "gradient.input": float(by_input.norm())}
        for group in replica.groups:
            expected[f"gradient.{group}"] = norm_of(g for key, g in by_name.items() if replica.parameter_group(key) == group)
        sketches = torch.zeros(2, 512)
        for draw, sketch in enumerate(sketches):
            for key, gradient in plain(replica, trials[0], [(100, draw)], row)[0].items():
                add_to_sketch(sketch[None], gradient.reshape(1, -1), key)
        expected["gradient.direction"] = float(torch.nn.functional.cosine_similarity(*sketches, dim=0))
        assert set(expected) == set(alone) == set(together)
        for signal, value in expected.items():
            for scores in (together, alone):
                assert -float(scores[signal][row]) == pytest.approx(value, rel=1e-4), signal


def norm_of(gradients: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_samples_alone_lose_nothing_in_half_precision(tiny: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backward, "TOGETHER_GIB", 0)
    images, attack = random_images(2, 64), Gradient(timesteps=(100, 300), direction_draws=2)
    whole, half = (
        attack.score(Trial(load_replica(str(tiny), LoadOptions(resolution_px=64, dtype=one)), images, ["a", ""], ["a", "b"], 1))
        for one in ("float32", dtype)
    )
    for name, scores in whole.items():
        assert torch.allclose(half[name], scores, rtol=0.05), name


def test_the_gradient_of_a_linear_unet_is_an_outer_product() -> None:
    images = torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(2)) * 2 - 1
    replica = LinearReplica()
    subject = trial(replica, images)
    scores = Gradient(timesteps=(200,), direction_timestep=200).score(subject)
    z, noise = subject.noisy(200, 0).flatten(1), subject.noise(0).flatten(1)
    error = noise - z @ replica.weight.T - replica.bias
    by_bias = -2 * error / 16
    by_weight = by_bias[:, :, None] * z[:, None, :]
    by_input = by_bias @ replica.weight * subject.schedule.alpha(200)
    norms = {
        "gradient.conv_out": vector_norm(by_bias, dim=1),
        "gradient.down.attention": vector_norm(by_weight.flatten(1), dim=1),
        "gradient.input": vector_norm(by_input, dim=1),
        "gradient": torch.sqrt(by_bias.square().sum(1) + by_weight.square().flatten(1).sum(1)),
        "gradient.up.resnet": torch.zeros(3),
    }
    for name, norm in norms.items():
        assert torch.allclose(-scores[name].double(), norm.double(), rtol=1e-5), name


def test_every_parameter_of_the_unet_is_in_a_group(tiny: Path) -> None:
    replica = load_replica(str(tiny), LoadOptions(resolution_px=64))
    found = {unet_group(name) for name in replica.parameters()}
    assert found == set(UNET_GROUPS)
    assert unet_group("add_embedding.linear_1.weight") is None


def test_a_sketch_keeps_angles_and_is_the_same_in_every_run() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(4, 200_000, generator=generator)
    other = 0.6 * one + 0.8 * torch.randn(4, 200_000, generator=generator)
    sketches = [torch.zeros(4, 4096), torch.zeros(4, 4096)]
    for sketch, vectors in zip(sketches, (one, other), strict=True):
        add_to_sketch(sketch, vectors[:, :50_000], "first")
        add_to_sketch(sketch, vectors[:, 50_000:], "second")
    cosines = torch.nn.functional.cosine_similarity(*sketches, dim=1)
    assert torch.allclose(cosines, torch.full((4,), 0.6), atol=4 / 64)
    again = torch.zeros(4, 4096)
    add_to_sketch(again, one[:, :50_000], "first")
    add_to_sketch(again, one[:, 50_000:], "second")
    assert torch.equal(again, sketches[0])
    # A bucket holds 200,000 / 4,096 elements on average; a hash that favoured some would break the error bound.
    counts = torch.zeros(1, 4096)
    add_to_sketch(counts, torch.ones(1, 200_000), "first")
    assert counts.abs().max() < 5 * math.sqrt(200_000 / 4096)


def test_gradient_masking_is_the_closed_form() -> None:
    subject = trial()
    scores = GradientMasking(timesteps=(100, 300), share=0.25, micro_batch=2).score(subject)
    noise, latents = subject.noise(0), subject.latents
    clean, lengths = [], []
    for t in (100, 300):
        a, s, g = subject.schedule.alpha(t), subject.schedule.sigma(t), gain(subject.schedule, t)
        error = noise - g * (a * latents + s * noise - a * MEAN)  # the gradient of its square is -2 g error / N
        threshold = error.abs().flatten(1).kthvalue(round(0.75 * 1024) + 1, dim=1).values[:, None, None, None]
        mask = error.abs() >= threshold
        masked = torch.where(mask, noise, latents)
        difference = (noise - latents) - g * (a * masked + s * noise - a * MEAN)
        expected = -vector_norm((difference * mask).flatten(1), dim=1)
        assert torch.allclose(scores[f"gradient_masking.t={t}"], expected, rtol=1e-5)
        difference = (noise - latents) - g * (masked - a * MEAN)
        clean.append(-vector_norm((difference * mask).flatten(1), dim=1))
        lengths.append(-vector_norm((2 * g / 1024 * error).flatten(1), dim=1))
    mean = (scores["gradient_masking.t=100"] + scores["gradient_masking.t=300"]) / 2
    assert torch.allclose(scores["gradient_masking"], mean)
    assert torch.allclose(scores["gradient_masking.clean"], (clean[0] + clean[1]) / 2, rtol=1e-5)
    assert torch.allclose(scores["gradient_masking.input"], (lengths[0] + lengths[1]) / 2, rtol=1e-5)


def test_the_mask_holds_each_samples_own_largest_elements() -> None:
    gradients = torch.tensor([[[[1.0, -9.0], [3.0, 2.0]]], [[[90.0, 10.0], [-20.0, 30.0]]]])
    assert largest(gradients, 0.25).flatten(1).tolist() == [[False, True, False, False], [True, False, False, False]]
    assert largest(gradients, 0.01).flatten(1).sum(1).tolist() == [1, 1]


def rosenbrock(z: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = z.detach().requires_grad_(True)
        losses = (100 * (x[:, 1:] - x[:, :-1].square()).square() + (1 - x[:, :-1]).square()).sum(1)
        (gradients,) = torch.autograd.grad(losses.sum(), x)
    return losses.detach(), gradients


@pytest.mark.parametrize("steps", [1, 2, 5, 12])
def test_the_optimiser_makes_the_steps_that_torchs_makes_on_each_sample_alone(steps: int) -> None:
    start = torch.randn(5, 6, generator=torch.Generator().manual_seed(4), dtype=torch.double)
    start[3] = 1.0  # a sample that is at its minimum from the beginning
    end = minimise(rosenbrock, start, steps)
    for i in range(5):
        x = start[i : i + 1].clone().requires_grad_(True)
        optimiser = torch.optim.LBFGS([x], max_iter=steps, max_eval=10 * steps)

        def closure(x: Tensor = x, optimiser: torch.optim.LBFGS = optimiser) -> Tensor:
            optimiser.zero_grad()
            losses, gradients = rosenbrock(x)
            x.grad = gradients
            return losses.sum()

        optimiser.step(closure)
        assert torch.allclose(end[i], x.detach()[0], rtol=1e-9, atol=1e-9), i
    assert torch.equal(end[3], start[3])


def test_noise_optimisation_keeps_the_samples_of_a_batch_apart() -> None:
    subject = trial()
    together = NoiseOptimisation().score(subject)
    for i in range(3):
        alone = Trial(subject.model._replica, subject.images[i : i + 1], [subject.captions[i]], [subject.keys[i]], seed=7)
        for name, score in NoiseOptimisation().score(alone).items():
            assert torch.allclose(score, together[name][i : i + 1], rtol=1e-9), name


def test_noise_optimisation_of_a_linear_model_ends_where_gradient_descent_on_it_must() -> None:
    # L = mean (g (z + delta) - const)^2 is a parabola of one curvature: the second step, of quasi-Newton length, ends it.
    subject = trial()
    scores = NoiseOptimisation(steps=3).score(subject)
    start = subject.noisy(100, 0)
    g = gain(subject.schedule, 100)
    delta = subject.noise(0) / g + subject.schedule.alpha(100) * MEAN - start
    assert scores["noise_optimisation"].abs().max() < 1e-12
    assert torch.allclose(scores["noise_optimisation.delta"], -vector_norm(delta.flatten(1), dim=1), rtol=1e-6)
    assert (mean_squared(delta) > 1e-3).all()
