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
from raymia.scan.scorer import Scorer
from raymia.services.protocol import ServiceError
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

    def image_to_image(self, images: Tensor, prompts: Sequence[str], *_: object) -> Tensor:
        if "refused" in prompts:
            raise ServiceError("refused_by_service", "a filter said no")
        return images

    def text_to_image(self, prompts: Sequence[str], *_: object) -> Tensor:
        raise ServiceError("service_failed", "gone")


def test_what_a_service_refuses_is_a_row_with_its_reason_however_many_there_are() -> None:
    scorer = Scorer(None, {"rediffuse": ReDiffuse()}, 0, black_box=Picky())
    sized = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    outcomes = scorer.score(sized, ["x", "refused", "x", "x"], KEYS)
    assert [isinstance(outcome, Fault) for outcome in outcomes] == [False, True, False, False]
    assert outcomes[1] == Fault("refused_by_service", "a filter said no")
    assert all(isinstance(outcome, Fault) for outcome in scorer.score(sized, ["refused"] * 4, KEYS))
    with pytest.raises(ValueError, match="no model of ours"):
        _ = scorer.replica
