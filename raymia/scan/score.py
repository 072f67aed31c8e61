"""Scores of images at hand, without Ray, a manifest or a run directory: for notebooks and scripts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from raymia.config import Job, parse_job
from raymia.data.groups import split_name
from raymia.data.images import MAX_PIXELS, DecodedImage, ImageError, decode_image, prepare_image
from raymia.data.shapes import Shapes
from raymia.data.tar import Fault
from raymia.errors import ConfigError
from raymia.replica.device import available, dtype_on
from raymia.replica.folder import find_pipeline
from raymia.replica.schedule import level_names
from raymia.run.columns import SIGNALS
from raymia.run.shown import COLUMN
from raymia.scan.decoding import image_facts
from raymia.scan.plan import check_attacks, signals_of
from raymia.scan.rows import score_by_shape
from raymia.scan.scorer import NO_RUN, Scorer, Scores, load_scorer
from raymia.scan.service import require_affordable
from raymia.scan.told import shapes_of
from raymia.shipped import model_folder

ImageLike = str | Path | bytes | Image.Image | NDArray[np.uint8]
"""A file or its bytes, a picture, or an array of shape (height, width, 3)."""


@dataclass(frozen=True)
class Batch:
    """Images with their keys and captions."""

    keys: list[str]
    captions: list[str]
    images: list[ImageLike]


def score(
    images: Sequence[ImageLike],
    captions: Sequence[str] | None = None,
    *,
    model: str | None = None,
    attacks: Mapping[str, Mapping[str, Any]] | Sequence[str],
    keys: Sequence[str] | None = None,
    member: Sequence[bool | None] | None = None,
    seed: int = 0,
    batch_size: int = 16,
    device: str = "auto",
    clip: str | None = None,
    copies: str | None = None,
    reference: str | Mapping[str, Any] | None = None,
    progress: bool = True,
    **replica: Any,
) -> pd.DataFrame:
    """Score images at hand, without Ray: the same image, caption and key give the same scores as in a scan.

    Args:
        images: paths, PIL images, or arrays (height, width, 3) of 8-bit RGB.
        captions: one per image; by default none.
        model: as in a job: a folder in diffusers' layout, its URL, a hub id, or `testbed`; with `service` what the service
            calls it.
        attacks: names, or a map from name to parameters, as in a job.
        keys: with `seed` they determine all noise; by default the file's name up to its first dot, or the image's number.
        member: one per image where it is known, for `raymia.evaluate`.
        seed: see `keys`.
        batch_size: images in front of the model at once.
        device: ``cpu``, ``cuda``, or ``auto`` for CUDA where there is one.
        clip: as in a job, for attacks that compare by it and for the blind baseline on embeddings.
        copies: as in a job, for `extraction`.
        reference: as in a job: ``"base"``, or ``{"model": ..}``, for signals ``calibrated.NAME``.
        progress: show a bar.
        replica: further fields of a job's `replica`, such as ``resolution_px=64`` or ``dtype="bfloat16"``; or ``service`` with
            a service's fields. Its answers are kept where ``answers`` says, and otherwise for this call alone.

    Returns:
        A row per image, in order: key, caption, member where it is given, what is known of the image, a column per signal, and
        `reason` and `detail` of an image that could not be scored, whose scores are missing. `raymia.evaluate` takes it.

    Raises:
        ConfigError: the model or the attacks cannot be used, two images have one key, or as many captions, keys or labels as
            images are expected.
    """
    names = list(keys) if keys is not None else [_key(image, number) for number, image in enumerate(images)]
    texts = list(captions) if captions is not None else [""] * len(images)
    _require(images, {"captions": texts, "keys": names, "member": member}, names)
    job = _job(model, attacks, seed, {"clip": clip, "copies": copies, "reference": reference}, replica)
    table = score_job(job, Batch(names, texts, list(images)), batch_size, device, progress)
    if member is not None:
        table.insert(2, "member", pd.Series(list(member), dtype=object))
    return table


def score_job(job: Job, samples: Batch, batch_size: int = 16, device: str = "auto", progress: bool = True) -> pd.DataFrame:
    """Score images at hand as a job does; see `score`.

    Args:
        job: whose manifest and pool do not matter.
        samples: keys, captions and images.
        batch_size, device, progress: see `score`.
    """
    scorer, shapes = _loaded(job, device, len(samples.keys))
    starts = range(0, len(samples.keys), batch_size)
    rows: list[dict[str, Any]] = []
    for start in track(starts, "score", disable=not progress):
        part = slice(start, start + batch_size)
        rows += _score_batch(scorer, shapes, Batch(samples.keys[part], samples.captions[part], samples.images[part]))
    signals = signals_of(job, () if job.hosted is not None else scorer.replica.groups)
    table = pd.DataFrame(rows)
    for column in (*(signal.name for signal in signals), "reason", "detail"):
        table[column] = table.get(column, None)
    table.attrs[SIGNALS] = [signal.model_dump(mode="json") for signal in signals]
    return table


def _loaded(job: Job, device: str, images: int) -> tuple[Scorer, Shapes]:
    """The scorer of a job, and the sizes that images are resized to."""
    if job.hosted is not None:
        require_affordable(job, images, asks_first=False)
        check_attacks(job, None, level_names())
        return load_scorer(job, "float32", "cpu", os.cpu_count()), shapes_of(job, None)
    section = job.model
    if section.text == "stage":
        raise ConfigError("text: stage is a scan's, which encodes its texts before it begins; use text: offload")
    place = available(device)
    scorer = load_scorer(job, dtype_on(section.dtype, place), place, None if place == "cuda" else os.cpu_count())
    bucketed = section.shape != "square"
    found = find_pipeline(model_folder(section.model), True, section.revision, section.said()) if bucketed else None
    return scorer, shapes_of(job, found)


def _require(images: Sequence[ImageLike], given: Mapping[str, Sequence[Any] | None], keys: Sequence[str]) -> None:
    for name, values in given.items():
        if values is not None and len(values) != len(images):
            raise ConfigError(f"{name}: {len(values)} for {len(images)} images; expected one for each")
    twice = next((key for key, count in pd.Series(keys, dtype=object).value_counts().items() if count > 1), None)
    if twice is not None:
        raise ConfigError(f"keys: {twice!r} stands for two images, whose noise would be the same; give each a key of its own")


def _job(
    model: str | None,
    attacks: Mapping[str, Mapping[str, Any]] | Sequence[str],
    seed: int,
    beside: Mapping[str, Any],
    replica: Mapping[str, Any],
) -> Job:
    chosen = {key: dict(value) for key, value in attacks.items()} if isinstance(attacks, Mapping) else {a: {} for a in attacks}
    if model is None and "service" not in replica:
        raise ConfigError("model: give a folder, a hub id or `testbed`; or service=, with what the service calls its model")
    section = {"model": model, **replica}
    content = {"manifest": "-", "replica": section, "attacks": chosen, "seed": seed, "run": NO_RUN}
    return parse_job(content | dict(beside), "raymia.score")


def _key(image: ImageLike, number: int) -> str:
    return split_name(Path(image).name)[0] if isinstance(image, str | Path) else f"{number}"


def _read(file: str | Path) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ImageError("unreadable_file", f"{file}: {error.strerror}") from error


def _score_batch(scorer: Scorer, shapes: Shapes, batch: Batch) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    good: list[int] = []
    pixels: list[NDArray[np.uint8]] = []
    for place, (key, caption, image) in enumerate(zip(batch.keys, batch.captions, batch.images, strict=True)):
        rows.append({"key": key, "caption": caption})
        try:
            decoded, facts = _decoded(image, shapes)
        except ImageError as error:
            rows[-1] |= {"reason": error.reason, "detail": error.detail}
            continue
        rows[-1] |= facts
        good.append(place)
        pixels.append(decoded.pixels)
    if not good:
        return rows
    outcomes = score_by_shape(scorer, pixels, [rows[place] for place in good], shapes)
    for place, outcome in zip(good, outcomes, strict=True):
        rows[place] |= {"reason": outcome.reason, "detail": outcome.detail} if isinstance(outcome, Fault) else _columns(outcome)
    return rows


def _columns(scores: Scores) -> Scores:
    """The columns of a sample, without what is shown beside them."""
    return {name: value for name, value in scores.items() if name != COLUMN}


def _decoded(image: ImageLike, shapes: Shapes) -> tuple[DecodedImage, dict[str, Any]]:
    """An image's pixels, and what is known of it.

    Raises:
        ImageError: it cannot be read or decoded.
    """
    facts: dict[str, Any] = {}
    if isinstance(image, str | Path | bytes):
        content = image if isinstance(image, bytes) else _read(image)
        decoded = decode_image(content, shapes, MAX_PIXELS)
        facts["jpeg_bytes"] = len(content)
    else:
        decoded = prepare_image(image if isinstance(image, Image.Image) else Image.fromarray(image), shapes)
    return decoded, facts | image_facts(decoded)
