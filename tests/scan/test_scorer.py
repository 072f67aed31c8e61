from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from raymia.attacks.loss import Loss
from raymia.attacks.random import Random
from raymia.attacks.rediffuse import ReDiffuse
from raymia.data.tar import Fault
from raymia.replica.conditioning import Conditioning
from raymia.run.record import Evaluations
from raymia.scan.calibration import Reference
from raymia.scan.scorer import Scorer, Scores
from raymia.services.protocol import Queries, ServiceError
from tests.attacks.replicas import GaussianReplica, PixelEmbedder

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
KEYS = ["a", "b", "c", "d"]


class Moody(GaussianReplica):
    """Fails or overflows on images whose caption says so."""

    def __init__(self, largest: int = 100) -> None:
        super().__init__(0.0, 1.0)
        self.largest = largest

    def text(self, prompts: Sequence[str]) -> Conditioning:
        if "raise" in prompts:
            raise RuntimeError("cannot take this one")
        if len(prompts) > self.largest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        marks = [float("nan") if prompt == "nan" else 0.0 for prompt in prompts]
        return Conditioning(states=torch.tensor(marks)[:, None, None])


def test_only_the_sample_at_fault_is_lost() -> None:
    outcomes = Scorer(Moody(), {"loss": Loss(draws=1)}, 0).score(PIXELS, ["x", "raise", "x", "x"], KEYS)
    assert [isinstance(outcome, Fault) for outcome in outcomes] == [False, True, False, False]


def test_a_fault_of_every_sample_ends_the_scan() -> None:
    with pytest.raises(RuntimeError, match="cannot take"):
        Scorer(Moody(), {"loss": Loss(draws=1)}, 0).score(PIXELS, ["raise"] * 4, KEYS)


def test_a_score_that_is_not_finite_is_quarantined_with_the_signals_name() -> None:
    outcomes = Scorer(Moody(), {"loss": Loss(timesteps=(100,), draws=1), "random": Random()}, 0).score(
        PIXELS, ["x", "nan", "x", "x"], KEYS
    )
    fault = outcomes[1]
    assert isinstance(fault, Fault)
    assert fault.reason == "non_finite"
    assert fault.detail.endswith("loss, loss.t=100, loss.lowpass")


def test_a_batch_that_runs_out_of_memory_is_halved() -> None:
    attacks = {"loss": Loss(draws=1)}
    whole = Scorer(Moody(), attacks, 0).score(PIXELS, ["x"] * 4, KEYS)
    assert Scorer(Moody(largest=1), attacks, 0).score(PIXELS, ["x"] * 4, KEYS) == whole


class Bounded(GaussianReplica):
    """Has memory for so many images in a call of the denoiser, and notes what is asked of it."""

    denoiser_batch = 100

    def __init__(self, largest: int, shift: float = 0.0) -> None:
        super().__init__(shift, 1.0)
        self.largest = largest
        self.encoded: list[int] = []
        self.asked: list[int] = []

    def encode(self, images: Tensor) -> Tensor:
        self.encoded.append(len(images))
        return super().encode(images)

    def predicted_noise(self, z_t: Tensor, t: int | Tensor, conditioning: Conditioning) -> Tensor:
        self.asked.append(len(z_t))
        if len(z_t) > self.largest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().predicted_noise(z_t, t, conditioning)


PAIR = {"loss:few": Loss(timesteps=(200,), draws=1), "loss": Loss(timesteps=(100, 300), draws=1)}
"""The second asks twice the images of the first in its largest call."""


def near(found: list[Scores | Fault], expected: list[Scores | Fault]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def test_a_size_that_ran_out_of_memory_is_not_tried_again_and_the_log_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    whole = Scorer(Bounded(100), PAIR, 0).score(PIXELS, ["x"] * 4, KEYS)
    replica = Bounded(4)
    scorer = Scorer(replica, PAIR, 0)
    for _ in range(3):
        near(scorer.score(PIXELS, ["x"] * 4, KEYS), whole)
    # Both evaluations of the loss in one call: eight images once, and four ever after.
    assert replica.asked.count(8) == 1
    assert [record.message for record in caplog.records] == ["out of memory at batch 4; from now on batches are cut to 2"]


def test_what_was_found_before_memory_ran_out_is_neither_computed_again_nor_counted_twice() -> None:
    replica = Bounded(4)
    scorer = Scorer(replica, PAIR, 0)
    near(scorer.score(PIXELS, ["x"] * 4, KEYS), Scorer(Bounded(100), PAIR, 0).score(PIXELS, ["x"] * 4, KEYS))
    assert replica.encoded == [4], "the halves have the latents"
    # The first attack on the whole batch, the second that failed, and its two evaluations of each half.
    assert replica.asked == [4, 8, 4, 4]
    assert scorer.evaluations == Evaluations(forwards=3 * 4, encodes=4)


def test_what_the_reference_found_before_memory_ran_out_is_kept_too() -> None:
    model, other = Bounded(100), Bounded(4, shift=0.2)
    scorer = Scorer(model, PAIR, 0, reference=Reference(other, same_latents=True, same_texts=False))
    wide = Scorer(Bounded(100), PAIR, 0, reference=Reference(Bounded(100, 0.2), same_latents=True, same_texts=False))
    near(scorer.score(PIXELS, ["x"] * 4, KEYS), wide.score(PIXELS, ["x"] * 4, KEYS))
    assert model.asked == [4, 8]
    assert other.asked == [4, 8, 4, 4]
    assert (model.encoded, other.encoded) == ([4], [])
    assert scorer.evaluations == wide.evaluations == Evaluations(forwards=2 * 3 * 4, encodes=4)


def test_evaluations_before_a_sample_at_fault_are_counted() -> None:
    attacks = {"loss": Loss(timesteps=(100,), draws=1), "random": Random()}
    scorer = Scorer(Moody(), attacks, 0)
    scorer.score(PIXELS, ["x", "raise", "x", "x"], KEYS)
    # The whole batch was encoded before its texts were; of each sample alone the latents are known, and all but one evaluated.
    assert scorer.evaluations == Evaluations(forwards=3, encodes=4)


def test_the_scorer_runs_where_ray_is_not_installed() -> None:
    code = "import sys; sys.modules['ray'] = None; import raymia.scan.rows, raymia.attacks.base as b; b.ATTACKS.all()"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_configured_clip_leaves_each_samples_embedding_with_its_scores() -> None:
    outcomes = Scorer(GaussianReplica(), {"random": Random()}, 0, clip=PixelEmbedder()).score(PIXELS, ["x"] * 4, KEYS)
    for outcome in outcomes:
        assert not isinstance(outcome, Fault)
        vector = outcome["clip_embedding"]
        assert isinstance(vector, list)
        assert len(vector) == 3 * 8 * 8
        assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)


class Picky:
    """A service that refuses images whose prompt says so."""

    def answer(self, queries: Queries) -> Tensor:
        if "refused" in queries.prompts:
            raise ServiceError("refused_by_service", "a filter said no")
        assert queries.images is not None
        return queries.images


def test_what_a_service_refuses_is_a_row_with_its_reason_however_many_there_are() -> None:
    scorer = Scorer(None, {"rediffuse": ReDiffuse()}, 0, black_box=Picky())
    sized = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    outcomes = scorer.score(sized, ["x", "refused", "x", "x"], KEYS)
    assert [isinstance(outcome, Fault) for outcome in outcomes] == [False, True, False, False]
    assert outcomes[1] == Fault("refused_by_service", "a filter said no")
    assert all(isinstance(outcome, Fault) for outcome in scorer.score(sized, ["refused"] * 4, KEYS))
    with pytest.raises(ValueError, match="no model of ours"):
        _ = scorer.replica
