"""Decoded batches in front of a replica: scores, quarantine and what was evaluated. No Ray here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymia.data.tar import Fault
from raymia.replica.shared import Evaluations
from raymia.scan.decoding import FACTS, PLACE, QUARANTINE
from raymia.scan.scorer import EMBEDDING, Scores

EVALUATIONS = pa.struct([(field.name, pa.int64()) for field in fields(Evaluations)])


def score_type(signals: Sequence[str]) -> pa.StructType:
    """One scored sample: what is known of it, a float column per signal, and its CLIP embedding or null."""
    return pa.struct([*FACTS, *((signal, pa.float64()) for signal in signals), (EMBEDDING, pa.list_(pa.float32()))])


class RowScorer(Protocol):
    """What gives each decoded sample its columns: a `Scorer`, or an embedder."""

    evaluations: Evaluations
    transfer_s: float

    def score(self, pixels: NDArray[np.uint8], captions: Sequence[str], keys: Sequence[str]) -> Sequence[Scores | Fault]:
        """Columns of each sample by name, or why it has none; see `raymia.scan.scorer.Scorer.score`."""


def score_rows(table: pa.Table, scorer: RowScorer, row_type: pa.StructType, resolution_px: int) -> pa.Table:
    """Score decoded rows; one row out for each row in, with `scores` of `row_type`, `quarantine` and `evaluations`."""
    scores: list[list[dict[str, Any]] | None] = []
    quarantine: list[list[dict[str, Any]] | None] = []
    evaluations: list[dict[str, int] | None] = []
    spent: list[tuple[float, float]] = []
    for pixels, samples in zip(table.column("pixels"), table.column("samples").to_pylist(), strict=True):
        if samples is None:
            scores.append(None)
            quarantine.append(None)
            evaluations.append(None)
            spent.append((0.0, 0.0))
            continue
        before, start, transfer_before = asdict(scorer.evaluations), time.perf_counter(), scorer.transfer_s
        good = [sample for sample in samples if sample["reason"] is None]
        shape = (len(good), resolution_px, resolution_px, 3)
        outcomes = _score(scorer, np.frombuffer(pixels.as_buffer(), np.uint8).reshape(shape), good)
        bad = [sample for sample in samples if sample["reason"] is not None]
        bad += [
            {**sample, "stage": "score", "reason": outcome.reason, "detail": outcome.detail}
            for sample, outcome in zip(good, outcomes, strict=True)
            if isinstance(outcome, Fault)
        ]
        scores.append([{**s, **o} for s, o in zip(good, outcomes, strict=True) if not isinstance(o, Fault)])
        quarantine.append(sorted(bad, key=lambda sample: int(sample["index"])))
        evaluations.append({name: count - before[name] for name, count in asdict(scorer.evaluations).items()})
        transfer_s = scorer.transfer_s - transfer_before
        spent.append((transfer_s, time.perf_counter() - start - transfer_s))
    return (
        table.select([*PLACE, "end", "read_s", "decode_s"])
        .append_column("transfer_s", pa.array([transfer for transfer, _ in spent], pa.float64()))
        .append_column("model_s", pa.array([model for _, model in spent], pa.float64()))
        .append_column("scores", pa.array(scores, pa.list_(row_type)))
        .append_column("quarantine", pa.array(quarantine, pa.list_(pa.struct(QUARANTINE))))
        .append_column("evaluations", pa.array(evaluations, EVALUATIONS))
    )


def _score(scorer: RowScorer, pixels: NDArray[np.uint8], samples: list[dict[str, Any]]) -> Sequence[Scores | Fault]:
    if not samples:
        return []
    prompts = [sample["caption"] if sample["prompt"] is None else sample["prompt"] for sample in samples]
    return scorer.score(pixels, prompts, [sample["key"] for sample in samples])
