"""Grey attacks against a replica whose noise prediction is exact for data z_0 ~ N(m, v I)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import InterpolationMode, center_crop, resize

from raymia.attacks.autoencoder import Autoencoder
from raymia.attacks.clid import CLiD
from raymia.attacks.denoising import Denoising, Preset
from raymia.attacks.loss import Loss
from raymia.attacks.memorisation import Memorisation
from raymia.attacks.pfami import PFAMI
from raymia.attacks.pia import PIA
from raymia.attacks.random import Random
from raymia.attacks.secmi import SecMI
from raymia.attacks.sima import SimA
from raymia.replica.schedule import Schedule
from raymia.trial.trial import CAPTION, EMPTY, Condition, Trial, mean_squared
from tests.attacks.replicas import BATCH, MEAN, GaussianReplica, gain, trial


@pytest.fixture(autouse=True, params=["epsilon", "v_prediction", "flow"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the denoiser puts out, and so the space that errors are averaged in."""
    monkeypatch.setattr(GaussianReplica, "kind", request.param)
    return str(request.param)


def trained(subject: Trial, t: int) -> float:
    """Errors of the noise times this are errors of what the model was trained on: noise, or velocity at alpha noise each."""
    return 1.0 if subject.schedule.prediction_type == "epsilon" else subject.schedule.alpha(t) ** -2


def close(actual: Tensor, expected: Tensor) -> bool:
    return torch.allclose(actual.double(), expected.double(), rtol=1e-5, atol=1e-7)


def moved(schedule: Schedule, offset: Tensor, t: int, u: int) -> Tensor:
    """A DDIM move is linear in the offset d = z - a m: x0 - m = d (1 - s g) / a and noise = g d."""
    g = gain(schedule, t)
    return offset * (schedule.alpha(u) * (1 - schedule.sigma(t) * g) / schedule.alpha(t) + schedule.sigma(u) * g)


def expected_loss(subject: Trial, t: int, draw: int) -> Tensor:
    a, s, g = subject.schedule.alpha(t), subject.schedule.sigma(t), gain(subject.schedule, t)
    return mean_squared(subject.noise(draw) * (1 - g * s) - g * a * (subject.latents - MEAN))


def filtered(x: Tensor, keep: float = 0.16) -> Tensor:
    """Frequencies by their definition: sums over all places of each frequency's wave, of which the real part is taken."""
    gains, waves = [], []
    for side in x.shape[-2:]:
        count = max(2, round(keep * side))
        frequencies = [(f + side // 2) % side - side // 2 for f in range(side)]
        gains.append(torch.tensor([float(-(count // 2) <= f < count - count // 2) for f in frequencies], dtype=torch.double))
        turns = torch.outer(torch.arange(side), torch.arange(side)).double() * 2 * math.pi / side
        waves.append(torch.exp(-1j * turns))
    spectrum = torch.einsum("fh,bchw,gw->bcfg", waves[0], x.to(torch.complex128), waves[1])
    spectrum = spectrum * (0.2 + 0.8 * torch.outer(*gains))
    back = torch.einsum("fh,bcfg,gw->bchw", waves[0].conj(), spectrum, waves[1].conj())
    return back.real / math.prod(x.shape[-2:])


def test_loss_is_the_closed_form() -> None:
    subject = trial()
    scores = Loss(timesteps=(100, 400), draws=3).score(subject)
    per_t = {t: -torch.stack([expected_loss(subject, t, k) for k in range(3)]).mean(0) for t in (100, 400)}
    for t, expected in per_t.items():
        assert close(scores[f"loss.t={t}"], expected)
    assert close(scores["loss"], torch.stack([trained(subject, t) * loss for t, loss in per_t.items()]).mean(0))
    low = []
    for t in (100, 400):
        a, s, g = subject.schedule.alpha(t), subject.schedule.sigma(t), gain(subject.schedule, t)
        errors = [subject.noise(k) * (1 - g * s) - g * a * (subject.latents - MEAN) for k in range(3)]
        low.append(-trained(subject, t) * torch.stack([mean_squared(filtered(error)) for error in errors]).mean(0))
    assert close(scores["loss.lowpass"], torch.stack(low).mean(0))


def test_timesteps_of_the_loss_may_have_draws_of_their_own() -> None:
    subject = trial()
    scores = Loss(timesteps=(100, 400), draws=2, noise="own").score(subject)
    for t, draws in ((100, (0, 2)), (400, (1, 3))):
        assert close(scores[f"loss.t={t}"], -torch.stack([expected_loss(subject, t, k) for k in draws]).mean(0))
    assert subject.evaluations.forwards == 4 * len(subject.images)


def test_secmi_is_the_closed_form() -> None:
    subject = trial()
    schedule = subject.schedule
    offset = subject.latents - schedule.alpha(0) * MEAN
    for t in range(0, 100, 10):
        offset = moved(schedule, offset, t, t + 10)
    back = moved(schedule, moved(schedule, offset, 100, 110), 110, 100)
    scores = SecMI().score(subject)
    assert close(scores["secmi"], -(back - offset).square().flatten(1).sum(1))
    assert torch.equal(scores["secmi"], scores["secmi.t=100"])


def test_secmi_at_timesteps_on_the_way_is_what_it_is_alone() -> None:
    together, alone = trial(), trial()
    scores = SecMI().score(together)
    assert together.evaluations.forwards == 12 * BATCH
    for t in (20, 50):
        assert close(scores[f"secmi.t={t}"], SecMI(timesteps=(t,), timestep=t).score(alone)["secmi"])
    assert (scores["secmi.t=20"] - scores["secmi.t=50"]).abs().min() > 1e-6


@pytest.mark.parametrize("p", [2.0, 4.0])
def test_pia_and_its_normalised_form_are_the_closed_form(p: float) -> None:
    subject = trial()
    schedule = subject.schedule
    a, s, g = schedule.alpha(200), schedule.sigma(200), gain(schedule, 200)
    e0 = gain(schedule, 0) * (subject.latents - schedule.alpha(0) * MEAN)
    pian = e0 * math.sqrt(2 / math.pi) / e0.abs().flatten(1).mean(1)[:, None, None, None]
    scores = PIA(timestep=200, p=p).score(subject)
    for name, noise in (("pia", e0), ("pia.normalised", pian)):
        error = noise - g * (a * subject.latents + s * noise - a * MEAN)
        assert close(scores[name], -error.abs().pow(p).flatten(1).sum(1).pow(1 / p)), name
        if name == "pia":
            assert close(scores["pia.lowpass"], -filtered(error).abs().pow(p).flatten(1).sum(1).pow(1 / p))
            assert torch.equal(scores["pia.t=200"], scores["pia"])
            euclidean = scores["pia"] if p == 2 else scores["pia.t=200.p=2"]
            assert close(euclidean, -error.square().flatten(1).sum(1).sqrt())
    assert ("pia.t=200.p=2" in scores) == (p != 2)
    alone = PIA(timestep=500, timesteps=(500,), p=p).score(subject)
    assert torch.equal(alone["pia"], scores["pia.t=500"])


def test_sima_is_the_closed_form() -> None:
    subject = trial()
    scores = SimA().score(subject)
    for t in (10, 50, 100, 300):
        noise = gain(subject.schedule, t) * (subject.latents - subject.schedule.alpha(t) * MEAN)
        assert close(scores[f"sima.t={t}"], -noise.pow(4).flatten(1).sum(1).pow(0.25))
    assert torch.equal(scores["sima"], scores["sima.t=100"])
    noise = gain(subject.schedule, 100) * (subject.latents - subject.schedule.alpha(100) * MEAN)
    assert close(scores["sima.lowpass"], -filtered(noise).pow(4).flatten(1).sum(1).pow(0.25))


def test_pfami_is_the_closed_form_over_centre_crops() -> None:
    subject = trial()
    ratios = []
    for share in (0.9, 0.75):
        side = round(16 * share)
        crop = resize(center_crop(subject.images, [side, side]), [16, 16], InterpolationMode.BICUBIC, antialias=False)
        latents = subject.model.encode(crop.clamp(-1, 1))
        for t in (0, 250):
            a, s, g = subject.schedule.alpha(t), subject.schedule.sigma(t), gain(subject.schedule, t)
            loss = expected_loss(subject, t, 0)
            varied = mean_squared(subject.noise(0) * (1 - g * s) - g * a * (latents - MEAN))
            ratios.append((loss - varied) / loss)
    assert close(PFAMI(timesteps=(0, 250), crops=(0.9, 0.75)).score(subject)["pfami"], -torch.stack(ratios).mean(0))


def test_clid_is_the_closed_form_where_every_word_adds_to_the_prediction() -> None:
    per_word = 0.05
    subject = trial(GaussianReplica(per_word=per_word))
    attack = CLiD(timesteps=(450,), draws=2)
    scores = attack.score(subject)
    a, s, g = subject.schedule.alpha(450), subject.schedule.sigma(450), gain(subject.schedule, 450)

    def loss_of(words: list[int], draw: int) -> Tensor:
        added = per_word * torch.tensor(words, dtype=torch.double)[:, None, None, None]
        error = subject.noise(draw) * (1 - g * s) - g * a * (subject.latents - MEAN) - added
        return trained(subject, 450) * mean_squared(error)

    def loss(words: list[int]) -> Tensor:
        return torch.stack([loss_of(words, k) for k in range(2)]).mean(0)

    full = loss([1, 2, 6])
    assert close(scores["clid"], loss([0, 0, 0]) - full)
    assert close(scores["clid.words=0.33"], loss([0, 1, 2]) - full)
    assert close(scores["clid.words=0.67"], loss([1, 1, 4]) - full)
    assert close(scores["clid.loss"], -full)
    logs = [loss_of(words, k).log() for words in ([0, 0, 0], [1, 2, 6]) for k in range(2)]
    assert close(scores["clid.ratio"], (logs[0] + logs[1] - logs[2] - logs[3]) / 2)


def test_iterative_denoising_is_the_closed_form() -> None:
    subject = trial()
    preset = Preset(start=300, timesteps=(290, 280, 0), step=10)
    attack = Denoising(presets={"mine": preset}, errors=("latent", "model", "pixel"), draws=1)
    scores = attack.score(subject)
    schedule, noise = subject.schedule, subject.noise(0)
    z = schedule.alpha(300) * subject.latents + schedule.sigma(300) * noise
    for t in (290, 280, 0):
        predicted = gain(schedule, t) * (z - schedule.alpha(t) * MEAN)
        x0 = (z - schedule.sigma(t) * predicted) / schedule.alpha(t)
        z = x0 if t == 0 else schedule.alpha(t - 10) * x0 + schedule.sigma(t - 10) * predicted
        assert close(scores[f"denoising.mine.model.t={t}"], -mean_squared(noise - predicted))
        assert close(scores[f"denoising.mine.latent.t={t}"], -mean_squared(z - subject.latents))
        pixels = (z[:, :3] - subject.images).abs().flatten(1).mean(1) * 127.5
        assert close(scores[f"denoising.mine.pixel.t={t}"], -pixels)
    per_t = torch.stack([scores[f"denoising.mine.latent.t={t}"] for t in preset.timesteps])
    assert close(scores["denoising"], per_t.mean(0))
    assert close(scores["denoising.mine.latent"], per_t.mean(0))
    models = [trained(subject, t) * scores[f"denoising.mine.model.t={t}"] for t in preset.timesteps]
    assert close(scores["denoising.mine.model"], torch.stack(models).mean(0))


def test_guidance_moves_by_the_extrapolated_prediction_and_leaves_the_model_error_alone() -> None:
    subject = trial(GaussianReplica(per_word=0.1))
    preset = Preset(start=300, timesteps=(290,), step=10, guidance=7.5)
    scores = Denoising(presets={"mine": preset}, draws=1).score(subject)
    schedule = subject.schedule
    z = subject.noisy(300, 0)
    empty = gain(schedule, 290) * (z - schedule.alpha(290) * MEAN)
    words = 0.1 * torch.tensor([1, 2, 6], dtype=torch.double)[:, None, None, None]
    guided = empty + 7.5 * words
    after = schedule.alpha(280) * (z - schedule.sigma(290) * guided) / schedule.alpha(290) + schedule.sigma(280) * guided
    assert close(scores["denoising.mine.latent.t=290"], -mean_squared(after - subject.latents))
    assert close(scores["denoising.mine.model.t=290"], -mean_squared(subject.noise(0) - empty - words))


def test_the_model_error_of_reversed_noising_is_the_loss() -> None:
    subject = trial()
    loss = Loss().score(subject)
    before = subject.evaluations.forwards
    errors = Denoising(presets=["reversed_noising"], errors=("model",)).score(subject)
    for t in Loss().timesteps:
        assert torch.equal(errors[f"denoising.reversed_noising.model.t={t}"], loss[f"loss.t={t}"])
    assert subject.evaluations.forwards - before == (50 - 25) * BATCH


def test_shifts_change_the_running_latents_only_from_where_they_are_added() -> None:
    subject = trial(GaussianReplica(per_word=0.1))
    spec = {"start": 300, "timesteps": (290, 280, 270, 260), "step": 10}
    presets = {"plain": spec, "latent": {**spec, "latent_shift": 1.0}, "text": {**spec, "text_shift": 0.1}}
    scores = Denoising.model_validate({"presets": presets, "draws": 1}).score(subject)

    def per_t(preset: str) -> list[Tensor]:
        return [scores[f"denoising.{preset}.latent.t={t}"] for t in (290, 280, 270, 260)]

    plain, latent, text = per_t("plain"), per_t("latent"), per_t("text")
    assert [torch.equal(a, b) for a, b in zip(plain, latent, strict=True)] == [True, True, False, False]
    assert [torch.equal(a, b) for a, b in zip(plain, text, strict=True)] == [False] * 4


def test_a_memorised_point_has_no_loss_and_no_secmi_error() -> None:
    subject = trial(GaussianReplica(variance=0.0), torch.full((BATCH, 3, 4, 4), MEAN))
    assert Loss().score(subject)["loss"].abs().max() < 1e-5
    # z_0 stands at timestep 0, a distance s_0 off the noiseless mean; SecMI carries that through and back.
    assert SecMI().score(subject)["secmi"].abs().max() < 1e-5


def test_noise_depends_on_seed_key_and_draw_alone() -> None:
    images = torch.zeros(2, 3, 4, 4)
    replica = GaussianReplica(0.0, 1.0)
    one = Trial(replica, images, ["", ""], ["a", "b"], seed=1)
    other = Trial(replica, images.flip(0)[:1], ["x"], ["b"], seed=1)
    assert torch.equal(one.noise(2)[1], other.noise(2)[0])
    assert not torch.equal(one.noise(2)[0], one.noise(2)[1])
    assert not torch.equal(one.noise(0), one.noise(1))
    assert not torch.equal(Trial(replica, images, ["", ""], ["a", "b"], seed=2).noise(0), one.noise(0))


def test_pia_and_secmi_share_their_first_evaluation() -> None:
    together = trial()
    PIA().score(together)
    SecMI().score(together)
    assert together.evaluations.forwards == (4 + 12 - 1) * BATCH
    assert together.evaluations.encodes == BATCH


def test_memorisation_is_what_the_words_add_at_pure_noise_and_encodes_nothing() -> None:
    subject = trial(GaussianReplica(per_word=0.05))
    scores = Memorisation(draws=3).score(subject)
    elements = math.prod(subject.model.latent_shape(*subject.images.shape[-2:]))
    assert close(scores["memorisation"], 0.05 * torch.tensor([1, 2, 6]) * math.sqrt(elements))
    assert subject.evaluations.forwards == 6 * BATCH
    assert subject.evaluations.encodes == 0


def test_memorisation_begins_from_noise_of_its_own_whether_images_or_latents_are_given() -> None:
    from_images = trial()
    from_latents = trial(latents=from_images.latents)
    assert torch.equal(from_images.initial_noise(1), from_latents.initial_noise(1))
    assert not torch.equal(from_images.initial_noise(1), from_images.initial_noise(0))
    assert not torch.equal(from_images.initial_noise(0), from_images.noise(0))


def test_a_caption_is_cut_to_the_nearest_whole_word() -> None:
    caption = "a  caption of six different words"
    assert CAPTION.prompt(caption) == caption
    assert EMPTY.prompt(caption) == ""
    assert Condition(words=1 / 3).prompt(caption) == "a caption"
    assert Condition(words=2 / 3).prompt("one") == "one"
    assert Condition(words=1 / 3).prompt("one") == ""


def test_autoencoder_control_never_touches_the_unet() -> None:
    subject = trial()
    scores = Autoencoder().score(subject)
    assert torch.allclose(scores["autoencoder"], torch.zeros(BATCH), atol=1e-9)
    lengths = torch.tensor([math.sqrt(sum(x * x for x in z.flatten().tolist()) / z.numel()) for z in subject.latents])
    assert close(scores["autoencoder.latent"], -lengths)
    assert subject.evaluations.forwards == 0


def test_random_control_is_reproducible_and_differs_between_images_of_one_key() -> None:
    replica = GaussianReplica(0.0, 1.0)
    images = torch.rand(2, 3, 4, 4)
    scores = Random().score(Trial(replica, images, ["", ""], ["same", "same"], seed=3))["random"]
    again = Random().score(Trial(replica, images, ["", ""], ["same", "same"], seed=3))["random"]
    assert torch.equal(scores, again)
    assert scores[0] != scores[1]


def test_random_control_is_the_same_where_a_device_rounds_pixels_otherwise() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    divided = levels.float() / 127.5 - 1.0
    multiplied = levels.float() * (1.0 / 127.5) - 1.0
    assert not torch.equal(divided, multiplied)
    first, second = (
        Random().score(Trial(GaussianReplica(0.0, 1.0), images, [""], ["same"], seed=3))["random"]
        for images in (divided, multiplied)
    )
    assert torch.equal(first, second)


def test_timesteps_of_clid_may_have_draws_of_their_own() -> None:
    subject = trial(GaussianReplica(per_word=0.05))
    scores = CLiD(timesteps=(100, 400), draws=2, noise="own", words=()).score(subject)
    places = [(100, 0), (100, 2), (400, 1), (400, 3)]
    losses = {c: [trained(subject, t) * subject.loss(t, k, c) for t, k in places] for c in (CAPTION, EMPTY)}
    assert close(scores["clid"], torch.stack(losses[EMPTY]).mean(0) - torch.stack(losses[CAPTION]).mean(0))
    assert subject.evaluations.forwards == 8 * len(subject.images)
