"""Decoded batches in front of a replica: scores, quarantine and what was evaluated. No Ray here."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymia.data.shapes import Placed, Shapes
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

    def score(
        self, pixels: NDArray[np.uint8], captions: Sequence[str], keys: Sequence[str], sizes: Sequence[Placed]
    ) -> Sequence[Scores | Fault]:
        """Columns of each sample by name, or why it has none; see `raymia.scan.scorer.Scorer.score`."""


def score_rows(
    table: pa.Table, scorer: RowScorer, row_type: pa.StructType, shapes: Shapes, cache: LatentCache | None = None
) -> pa.Table:
    """Score decoded rows; one row out for each row in, with `scores` of `row_type`, `quarantine` and `evaluations`.

    Images of one shape stand in front of the model together. With a cache `scorer` is a `Scorer`; the latents of batches that
    came without are put there.
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
        images = _arrays(pixels, np.uint8, [(*shapes.nearest(one["height"], one["width"]), 3) for one in good])
        outcomes: Sequence[Scores | Fault]
        if cache is None:
            outcomes = score_by_shape(scorer, images, good, shapes)
        else:
            outcomes = _score_latents(cast(Scorer, scorer), cache, samples, images, latents)
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


def score_by_shape(
    scorer: RowScorer,
    images: Sequence[NDArray[np.uint8]] | None,
    samples: Sequence[dict[str, Any]],
    shapes: Shapes,
    latents: Sequence[NDArray[np.float32]] | None = None,
) -> list[Scores | Fault]:
    """Scores of each sample, or why it has none; those of one shape stand in front of the model together.

    Args:
        scorer: a `Scorer`, where there are latents; it may then do without images.
        images: of each sample, upright RGB.
        samples: with key, caption and the size of the image's file.
        shapes: that images were resized to.
        latents: of each sample, where they are known.
    """
    outcomes: dict[int, Scores | Fault] = {}
    for places in _places_by_shape(latents if images is None else images):
        told = _told([samples[place] for place in places], shapes)
        pixels = None if images is None else np.stack([images[place] for place in places])
        if latents is None:
            found = scorer.score(cast(NDArray[np.uint8], pixels), *told)
        else:
            found = cast(Scorer, scorer).score(pixels, *told, np.stack([latents[place] for place in places]))
        outcomes |= dict(zip(places, found, strict=True))
    return [outcomes[place] for place in range(len(samples))]


def _score_latents(
    scorer: Scorer,
    cache: LatentCache,
    samples: list[dict[str, Any]],
    images: Sequence[NDArray[np.uint8]] | None,
    latents: pa.Scalar,
) -> Sequence[Scores | Fault]:
    good = [sample for sample in samples if sample["reason"] is None]
    if not good:
        return []
    known = _arrays(latents, np.float32, [cache.shape_of(sample) for sample in good])
    if known is None:
        assert images is not None
        try:
            known = _encoded(scorer, images)
        except SCORING_ERRORS:
            return score_by_shape(scorer, images, good, cache.shapes)  # which finds out whose fault it is
        cache.store([sample for sample in samples if sample["stage"] != "read"], known)
    return score_by_shape(scorer, images if cache.images_too else None, good, cache.shapes, known)


def _encoded(scorer: Scorer, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
    """Latents of each image, made in batches of one shape."""
    found: dict[int, NDArray[np.float32]] = {}
    for places in _places_by_shape(images):
        encoded = scorer.encode(np.stack([images[place] for place in places]))
        found |= dict(zip(places, encoded, strict=True))
    return [found[place] for place in range(len(images))]


def _places_by_shape(arrays: Sequence[NDArray[Any]] | None) -> list[list[int]]:
    """Numbers of the arrays of each shape, in order of the first of it."""
    places: dict[tuple[int, ...], list[int]] = {}
    for place, array in enumerate(arrays or ()):
        places.setdefault(array.shape, []).append(place)
    return list(places.values())


def _arrays(content: pa.Scalar, dtype: type[np.generic], shapes: Sequence[tuple[int, ...]]) -> list[NDArray[Any]] | None:
    """Arrays of those shapes that lie one behind the other, none of them copied; none where there is no content."""
    if not content.is_valid:
        return None
    whole, start, found = np.frombuffer(content.as_buffer(), dtype), 0, []
    for shape in shapes:
        end = start + math.prod(shape)
        found.append(whole[start:end].reshape(shape))
        start = end
    return found


def _told(samples: Sequence[dict[str, Any]], shapes: Shapes) -> tuple[list[str], list[str], list[Placed]]:
    """What the model is told of each sample, its key, and where its crop lies in the image of its file."""
    prompts = [sample["caption"] if sample.get("prompt") is None else sample["prompt"] for sample in samples]
    return (
        prompts,
        [sample["key"] for sample in samples],
        [shapes.placed(sample["height"], sample["width"]) for sample in samples],
    )
