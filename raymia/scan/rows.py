"""The rows that travel through a scan: batches of bytes, of decoded images, of scores. No Ray here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pyarrow as pa

from raymia.data.images import DecodedImage, ImageError, decode_image
from raymia.data.statistics import image_statistics
from raymia.data.tar import Fault
from raymia.replica.shared import Evaluations
from raymia.scan.scorer import EMBEDDING, Scorer, Scores

STATISTICS = ("entropy", "colourfulness", "edge_density")
STAGES = ("read_s", "decode_s", "transfer_s", "model_s")
"""Seconds that a batch spent in each stage; the driver adds its own for commits."""
PLACE = ("split", "shard", "member", "unit", "batch", "last_in_unit")

FACTS: list[tuple[str, pa.DataType]] = [
    ("key", pa.string()),
    ("index", pa.int64()),
    ("caption", pa.string()),
    ("prompt", pa.string()),
    ("flags", pa.string()),
    ("image_sha256", pa.string()),
    ("width", pa.int64()),
    ("height", pa.int64()),
    ("jpeg_bytes", pa.int64()),
    *((name, pa.float64()) for name in STATISTICS),
]
DECODED = pa.struct([*FACTS, ("stage", pa.string()), ("reason", pa.string()), ("detail", pa.string())])
QUARANTINE: list[tuple[str, pa.DataType]] = [
    ("key", pa.string()),
    ("index", pa.int64()),
    ("stage", pa.string()),
    ("reason", pa.string()),
    ("detail", pa.string()),
]
EVALUATIONS = pa.struct([(field.name, pa.int64()) for field in fields(Evaluations)])


def score_type(signals: Sequence[str]) -> pa.StructType:
    """One scored sample: what is known of it, a float column per signal, and its CLIP embedding or null."""
    return pa.struct([*FACTS, *((signal, pa.float64()) for signal in signals), (EMBEDDING, pa.list_(pa.float32()))])


def decode_rows(table: pa.Table, resolution_px: int, max_pixels: int) -> pa.Table:
    """Decode the images of batch rows. Never raises for bad data: an error becomes the sample's stage, reason and detail.

    Args:
        table: rows as the shard reader makes them.
        resolution_px, max_pixels: see `raymia.data.images.decode_image`.

    Returns:
        The same rows with `pixels` (bytes of a (n, side, side, 3) array of the decoded samples in order) and facts.
    """
    pixels: list[bytes | None] = []
    samples: list[list[dict[str, Any]] | None] = []
    spent: list[float] = []
    for batch in table.column("samples").to_pylist():
        if batch is None:
            pixels.append(None)
            samples.append(None)
            spent.append(0.0)
            continue
        start = time.perf_counter()
        decoded = [_decode(sample, resolution_px, max_pixels) for sample in batch]
        pixels.append(b"".join(image.pixels.tobytes() for _, image in decoded if image is not None))
        samples.append([facts for facts, _ in decoded])
        spent.append(time.perf_counter() - start)
    return (
        table.select([*PLACE, "end", "read_s"])
        .append_column("decode_s", pa.array(spent, pa.float64()))
        .append_column("pixels", pa.array(pixels, pa.large_binary()))
        .append_column("samples", pa.array(samples, pa.list_(DECODED)))
    )


def _decode(sample: dict[str, Any], resolution_px: int, max_pixels: int) -> tuple[dict[str, Any], DecodedImage | None]:
    facts = {name: sample[name] for name in ("key", "index", "caption", "prompt", "flags")}
    if sample["reason"] is not None:
        return {**facts, "stage": "read", "reason": sample["reason"], "detail": sample["detail"]}, None
    content = sample["image"]
    try:
        image = decode_image(content, resolution_px, max_pixels)
    except ImageError as error:
        return {**facts, "stage": "decode", "reason": error.reason, "detail": error.detail}, None
    facts |= {"image_sha256": image.sha256, "width": image.width, "height": image.height, "jpeg_bytes": len(content)}
    return facts | image_statistics(image.pixels), image


def score_rows(table: pa.Table, scorer: Scorer, signals: Sequence[str], resolution_px: int) -> pa.Table:
    """Score decoded rows; one row out for each row in, with `scores`, `quarantine` and `evaluations`."""
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
        .append_column("scores", pa.array(scores, pa.list_(score_type(signals))))
        .append_column("quarantine", pa.array(quarantine, pa.list_(pa.struct(QUARANTINE))))
        .append_column("evaluations", pa.array(evaluations, EVALUATIONS))
    )


def _score(scorer: Scorer, pixels: np.ndarray, samples: list[dict[str, Any]]) -> list[Scores | Fault]:
    if not samples:
        return []
    prompts = [sample["caption"] if sample["prompt"] is None else sample["prompt"] for sample in samples]
    return scorer.score(pixels, prompts, [sample["key"] for sample in samples])
