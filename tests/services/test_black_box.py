"""Black-box attacks: what they ask, what they make of the answers, and that they ask nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from raymia.attacks.autoencoder import Autoencoder
from raymia.attacks.base import ATTACKS, Access, Attack
from raymia.attacks.extraction import Extraction
from raymia.attacks.generation import Generation
from raymia.attacks.loss import Loss
from raymia.attacks.pokemon import Pokemon
from raymia.attacks.rediffuse import ReDiffuse
from raymia.services.local import LocalPipeline
from raymia.services.protocol import Queries
from raymia.trial.shared import SharedReplica
from raymia.trial.similarity import similarity
from raymia.trial.trial import NoModelError, Trial
from tests.attacks.replicas import SIDE, GaussianReplica, PixelEmbedder, random_images, trial

BLACK = [kind for kind in ATTACKS.all().values() if kind.access == Access.BLACK]


class Service:
    """A hosted service: it blends the image with seeded noise, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def answer(self, queries: Queries) -> Tensor:
        drawn = self._noise(queries.seeds, queries.height, queries.width)
        said = (queries.steps, queries.guidance, tuple(queries.seeds))
        if queries.images is None or queries.strength is None:
            self.asked.append(("text", len(queries), queries.height, *said))
            return drawn
        self.asked.append(("image", len(queries), queries.strength, *said))
        return (1 - queries.strength) * queries.images + queries.strength * drawn

    def _noise(self, seeds: Sequence[int], height: int, width: int) -> Tensor:
        draws = [torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(draws) * 2 - 1


def remote_trial(service: Service) -> Trial:
    """A trial in front of a service, with no model anywhere."""
    images, captions = random_images(), ["one", "two words", "a caption of six different words"]
    keys = [f"k{i}" for i in range(len(images))]
    beside = {"copies": Descriptor(), "black_box": service}
    return Trial(None, images, captions, keys, 7, PixelEmbedder(), SquaredDistance(), **beside)


class Descriptor(PixelEmbedder):
    """Stands where a copy detector stands, which takes images of any size."""

    def embed_images(self, images: Tensor) -> Tensor:
        return super().embed_images(nn.functional.interpolate(images, size=(SIDE, SIDE), mode="nearest"))


class SquaredDistance:
    def distance(self, one: Tensor, other: Tensor) -> Tensor:
        return (one - other).square().flatten(1).mean(1)


@pytest.mark.parametrize("kind", BLACK, ids=lambda kind: kind.name)
def test_a_black_box_attack_touches_the_model_only_through_queries(kind: type[Attack]) -> None:
    service = Service()
    subject = remote_trial(service)
    scores = kind().score(subject)
    assert set(scores) == {signal.name for signal in kind().signals()}
    assert all(torch.isfinite(score).all() for score in scores.values())
    assert subject.evaluations.queries == sum(int(str(asked[1])) for asked in service.asked) == 3 * kind().cost().queries
    assert (subject.evaluations.forwards, subject.evaluations.encodes, subject.evaluations.decodes) == (0, 0, 0)


def test_a_grey_attack_cannot_run_on_a_service() -> None:
    with pytest.raises(NoModelError, match="images alone"):
        Loss().score(remote_trial(Service()))
    with pytest.raises(ValueError, match="a replica or a service"):
        Trial(None, random_images(), ["", "", ""], ["a", "b", "c"], 0)


def test_the_same_variation_is_asked_for_once() -> None:
    service = Service()
    subject = remote_trial(service)
    ReDiffuse(timesteps=(200,), timestep=200, steps=10, variations=2).score(subject)
    Pokemon(timesteps=(200,), draws=2, metrics=("ssim",)).score(subject)
    assert [asked[2] for asked in service.asked] == [0.2, 0.2, 0.0]


def test_variations_average_and_generations_take_the_mean_and_the_best() -> None:
    service = Service()
    subject = remote_trial(service)
    variations = torch.stack([subject.image_to_image(50, k, 1) for k in range(4)]).mean(0)
    scores, raw = ReDiffuse().score(subject), similarity(subject, "ssim", variations)
    assert torch.equal(scores["rediffuse.raw"], raw)
    assert torch.equal(scores["rediffuse"], raw - similarity(subject, "ssim", subject.reconstruction()))
    assert torch.equal(scores["rediffuse"], scores["rediffuse.t=50"])
    assert not torch.equal(scores["rediffuse"], scores["rediffuse.t=200"])
    scores = Generation(images=2, metric="lpips").score(subject)
    each = torch.stack([similarity(subject, "lpips", subject.text_to_image(k, 30, 7.5)) for k in range(2)])
    assert torch.equal(scores["generation"], each.mean(0))
    assert torch.equal(scores["generation.max"], each.amax(0))


def test_extraction_takes_the_closest_image_and_shows_it_with_all_descriptors() -> None:
    subject, attack = remote_trial(Service()), Extraction(draws=4, steps=10)
    scores, shown = attack.score(subject), attack.shown(subject)
    made = torch.stack([subject.text_to_image(draw, 10, 7.5) for draw in range(4)], 1)
    unit = [nn.functional.normalize(images.flatten(-3), dim=-1) for images in (subject.images, made)]
    alike = torch.einsum("bw,bdw->bd", *unit)
    assert torch.allclose(scores["extraction"], alike.amax(1), atol=1e-6)
    assert torch.allclose(scores["extraction.mean"], alike.mean(1), atol=1e-6)
    assert scores["extraction.cluster"].tolist() == [1.0, 1.0, 1.0], "noise of different seeds"
    assert shown.draws == alike.argmax(1).tolist()
    assert torch.equal(shown.images[1], made[1, shown.draws[1]])
    assert torch.allclose((shown.answers * shown.work[:, None]).sum(2), alike, atol=1e-6)
    assert subject.evaluations.queries == 3 * 4, "what is shown is asked for once"


class Repeats(Service):
    """Gives the same image for any seed: a quarter of it is what the other's whole is."""

    def answer(self, queries: Queries) -> Tensor:
        side = queries.height
        image = torch.zeros(len(queries), 3, side, side)
        image[..., side // 2 :, : side // 2] = random_images(len(queries), side // 2)
        return image


def test_extraction_counts_images_that_are_the_same_and_says_where_the_work_is() -> None:
    images = random_images(3, SIDE // 2).repeat_interleave(2, -1).repeat_interleave(2, -2)
    subject = Trial(None, images, ["a", "b", "c"], ["0", "1", "2"], 0, black_box=Repeats(), copies=Descriptor())
    attack = Extraction(draws=3)
    assert attack.score(subject)["extraction.cluster"].tolist() == [3.0, 3.0, 3.0]
    shown = attack.shown(subject)
    assert [word for word, _ in shown.within_image] == ["lower left"] * 3
    assert all(alike == pytest.approx(1.0, abs=1e-5) for _, alike in shown.within_image)


def test_pokemon_is_calibrated_by_the_autoencoder_alone() -> None:
    subject = remote_trial(Service())
    scores = Pokemon(timesteps=(200, 400), draws=1, steps=4).score(subject)
    for metric in ("ssim", "clip", "lpips"):
        raw = [similarity(subject, metric, subject.image_to_image(t, 0, 4)) for t in (200, 400)]
        baseline = similarity(subject, metric, subject.images)
        assert torch.allclose(scores[f"pokemon.{metric}.t=400"], raw[1] - baseline)
        assert torch.allclose(scores[f"pokemon.{metric}.raw"], (raw[0] + raw[1]) / 2)
        assert torch.allclose(scores[f"pokemon.{metric}"], (raw[0] + raw[1]) / 2 - baseline)
    assert torch.equal(scores["pokemon"], scores["pokemon.ssim"])


@pytest.mark.parametrize("metric", ["ssim", "clip"])
def test_similarity_is_one_for_the_same_image_and_falls_as_noise_grows(metric: str) -> None:
    subject = trial(clip=PixelEmbedder())
    noise = torch.randn(subject.images.shape, generator=torch.Generator().manual_seed(0))
    values = [similarity(subject, metric, subject.images + scale * noise) for scale in (0.0, 0.05, 0.1, 0.2, 0.4)]  # type: ignore[arg-type]
    assert torch.allclose(values[0], torch.ones(3), atol=1e-6)
    assert all((after < before).all() for before, after in itertools.pairwise(values))


def test_the_local_pipeline_denoises_over_evenly_spaced_timesteps_to_clean_latents() -> None:
    model = SharedReplica(GaussianReplica(variance=0.0))
    images = random_images()
    # A model of a single point denoises everything to that point.
    asked = Queries(["a", "b", "c"], 0, [""] * 3, (1, 2, 3), *images.shape[-2:], 4, 1.0, images, 0.4)
    made = LocalPipeline(model).answer(asked)
    assert torch.allclose(made, torch.full_like(made, model._replica.mean), atol=1e-5)  # type: ignore[attr-defined]
    assert model.evaluations.forwards == 4 * 3
    assert torch.equal(LocalPipeline(model).answer(replace(asked, strength=0.0, steps=None)), images)
    drawn = LocalPipeline(model).answer(Queries(["a", "b"], 0, ["a", "b"], (1, 2), 16, 16, 5, 7.5))
    assert drawn.shape == (2, 3, 16, 16)
    assert torch.allclose(drawn, torch.full_like(drawn, 0.3), atol=1e-5)


def test_image_to_image_shares_latents_and_its_first_step_with_the_loss() -> None:
    subject = trial(clip=PixelEmbedder())
    Loss(timesteps=(200,), draws=1).score(subject)
    Autoencoder().score(subject)
    before = subject.evaluations.forwards, subject.evaluations.decodes
    Pokemon(timesteps=(200,), draws=1, steps=5, metrics=("ssim",)).score(subject)
    assert subject.evaluations.forwards - before[0] == 4 * 3
    assert subject.evaluations.decodes - before[1] == 3
    assert subject.evaluations.encodes == 3
