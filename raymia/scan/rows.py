"""Decoded batches in front of a replica: scores, quarantine and what was evaluated. No Ray here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymia.data.tar import Fault
from raymia.run.columns import QUARANTINED
from raymia.run.record import KINDS, Evaluations
from raymia.scan.batches import BATCH_PLACE_NAMES
from raymia.scan.latents import LatentCache
from raymia.scan.scorer import SCORING_ERRORS, Scorer, Scores

EVALUATIONS = pa.struct([(kind, pa.int64()) for kind in KINDS])


class RowScorer(Protocol):
    """What gives each decoded sample its columns: a `Scorer`, or an embedder."""

    evaluations: Evaluations
    transfer_s: float

    def score(self, pixels: NDArray[np.uint8], captions: Sequence[str], keys: Sequence[str]) -> Sequence[Scores | Fault]:
        """Columns of each sample by name, or why it has none; see `raymia.scan.scorer.Scorer.score`."""


def score_rows(
    table: pa.Table, scorer: RowScorer, row_type: pa.StructType, resolution_px: int, cache: LatentCache | None = None
) -> pa.Table:
    """Score decoded rows; one row out for each row in, with `scores` of `row_type`, `quarantine` and `evaluations`.

    With a cache `scorer` is a `Scorer`; the latents of batches that came without are put there.
    """
    scores: list[list[dict[str, Any]] | None] = []
    quarantine: list[list[dict[str, Any]] | None] = []
    evaluations: list[dict[str, int] | None] = []
    spent: list[tuple[float, float]] = []
    columns = (table.column("pixels"), table.column("latents"), table.column("samples").to_pylist())
    for pixels, latents, samples in zip(*columns, strict=True):
        if samples is None:
            scores.append(None)
            quarantine.append(None)
            evaluations.append(None)
            spent.append((0.0, 0.0))
            continue
        before, start, transfer_before = scorer.evaluations.model_copy(), time.perf_counter(), scorer.transfer_s
        good = [sample for sample in samples if sample["reason"] is None]
        shape = (len(good), resolution_px, resolution_px, 3)
        if cache is None:
            outcomes = scorer.score(_array(pixels, np.uint8, shape), *_texts(good)) if good else []
        else:
            outcomes = _score_latents(cast(Scorer, scorer), cache, samples, pixels, latents, shape)
        bad = [sample for sample in samples if sample["reason"] is not None]
        bad += [
            {**sample, "stage": "score", "reason": outcome.reason, "detail": outcome.detail}
            for sample, outcome in zip(good, outcomes, strict=True)
            if isinstance(outcome, Fault)
        ]
        scores.append([{**s, **o} for s, o in zip(good, outcomes, strict=True) if not isinstance(o, Fault)])
        quarantine.append(sorted(bad, key=lambda sample: int(sample["index"])))
        evaluations.append(dict(scorer.evaluations - before))
        transfer_s = scorer.transfer_s - transfer_before
        spent.append((transfer_s, time.perf_counter() - start - transfer_s))
    return (
        table.select([*BATCH_PLACE_NAMES, "end", "read_s", "decode_s"])
        .append_column("transfer_s", pa.array([transfer for transfer, _ in spent], pa.float64()))
        .append_column("model_s", pa.array([model for _, model in spent], pa.float64()))
        .append_column("scores", pa.array(scores, pa.list_(row_type)))
        .append_column("quarantine", pa.array(quarantine, pa.list_(pa.struct(QUARANTINED))))
        .append_column("evaluations", pa.array(evaluations, EVALUATIONS))
    )


def _score_latents(
    scorer: Scorer,
    cache: LatentCache,
    samples: list[dict[str, Any]],
    pixels: pa.Scalar,
    latents: pa.Scalar,
    shape: tuple[int, ...],
) -> Sequence[Scores | Fault]:
    good = [sample for sample in samples if sample["reason"] is None]
    if not good:
        return []
    if latents.is_valid:
        z = _array(latents, np.float32, (len(good), *cache.shape))
    else:
        images = _array(pixels, np.uint8, shape)
        try:
            z = scorer.encode(images)
        except SCORING_ERRORS:
            return scorer.score(images, *_texts(good))  # which finds out whose fault it is
        cache.store([sample for sample in samples if sample["stage"] != "read"], z)
    return scorer.score(_array(pixels, np.uint8, shape) if cache.images_too else None, *_texts(good), latents=z)


def _array(content: pa.Scalar, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    return np.frombuffer(content.as_buffer(), dtype).reshape(shape)


def _texts(samples: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """What the model is told of each sample, and its key."""
    prompts = [sample["caption"] if sample["prompt"] is None else sample["prompt"] for sample in samples]
    return prompts, [sample["key"] for sample in samples]
