"""Batches of image files to batches of pixels, with what is known of each image. No Ray."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymia.data.images import DecodedImage, ImageError, decode_image
from raymia.data.shapes import Shapes
from raymia.data.statistics import image_statistics
from raymia.run.columns import FAULT, KNOWN, fields
from raymia.scan.batches import BATCH_PLACE_NAMES

if TYPE_CHECKING:
    from raymia.scan.latents import Kept, LatentCache

STAGE_SECONDS = ("read_s", "decode_s", "transfer_s", "model_s")
"""Columns with the seconds that a batch spent in each stage; the driver adds its own for commits."""
READ_COLUMNS = tuple(column.name for column in fields("read"))
DECODED = pa.struct([*KNOWN, *FAULT])


def decode_rows(table: pa.Table, shapes: Shapes, max_pixels: int, cache: LatentCache | None = None) -> pa.Table:
    """Decode the images of batch rows. Never raises for bad data: an error becomes the sample's stage, reason and detail.

    Args:
        table: rows as the shard reader makes them.
        shapes, max_pixels: see `raymia.data.images.decode_image`.
        cache: of latents; a batch that it knows is not decoded, unless attacks work on images.

    Returns:
        The same rows with `pixels` (bytes of the (height, width, 3) arrays of the decoded samples in order) and facts; where
        the cache knows them, `latents` (bytes of the (c, h, w) arrays of float32). A sample's size is the nearest of `shapes`.
    """
    pixels: list[Sequence[NDArray[Any]] | None] = []
    latents: list[Sequence[NDArray[Any]] | None] = []
    samples: list[list[dict[str, Any]] | None] = []
    spent: list[float] = []
    for batch in table.column("samples").to_pylist():
        if batch is None:
            pixels.append(None)
            latents.append(None)
            samples.append(None)
            spent.append(0.0)
            continue
        start = time.perf_counter()
        images, known, facts = _decode_batch(batch, shapes, max_pixels, cache)
        pixels.append(images)
        latents.append(known)
        samples.append(facts)
        spent.append(time.perf_counter() - start)
    return (
        table.select([*BATCH_PLACE_NAMES, "end", "read_s"])
        .append_column("decode_s", pa.array(spent, pa.float64()))
        .append_column("pixels", _binaries(pixels))
        .append_column("latents", _binaries(latents))
        .append_column("samples", pa.array(samples, pa.list_(DECODED)))
    )


def _decode_batch(
    batch: Sequence[dict[str, Any]], shapes: Shapes, max_pixels: int, cache: LatentCache | None
) -> tuple[Sequence[NDArray[np.uint8]] | None, Sequence[NDArray[np.float32]] | None, list[dict[str, Any]]]:
    """Pixels of the decoded samples, or none; their latents, or none; facts of all samples."""
    hashes = [_sha256(sample) for sample in batch if sample["reason"] is None] if cache is not None else []
    kept = cache.load(hashes) if cache is not None and hashes else None
    if cache is not None and kept is not None and not cache.images_too:
        return None, kept.latents, _recalled(batch, kept)
    decoded = [_decode(sample, shapes, max_pixels) for sample in batch]
    images = [image for _, image in decoded if image is not None]
    known = kept is not None and kept.images() == [image.sha256 for image in images]
    latents = kept.latents if kept is not None and known else None
    return [image.pixels for image in images], latents, [facts for facts, _ in decoded]


def _binaries(rows: Sequence[Sequence[NDArray[Any]] | None]) -> pa.Array:
    """A column of the bytes of each row's arrays, one behind the other; each is copied once."""
    each = [[] if arrays is None else list(arrays) for arrays in rows]
    sizes = [sum(array.nbytes for array in arrays) for arrays in each]
    offsets = np.cumsum([0, *sizes], dtype=np.int64)
    content, start = np.empty(int(offsets[-1]), np.uint8), 0
    for array in chain.from_iterable(each):
        content[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
        start += array.nbytes
    valid = pa.array([arrays is not None for arrays in rows]).buffers()[1]
    buffers = [valid, pa.py_buffer(offsets), pa.py_buffer(content)]
    return pa.Array.from_buffers(pa.large_binary(), len(rows), buffers)


def _decode(sample: dict[str, Any], shapes: Shapes, max_pixels: int) -> tuple[dict[str, Any], DecodedImage | None]:
    facts = _sample_facts(sample)
    if sample["reason"] is not None:
        return facts, None
    content = sample["image"]
    try:
        image = decode_image(content, shapes, max_pixels)
    except ImageError as error:
        fault = {"stage": "decode", "reason": error.reason, "detail": error.detail}
        return {**facts, **fault, "image_sha256": _sha256(sample)}, None
    return facts | image_facts(image) | {"jpeg_bytes": len(content)}, image


def image_facts(image: DecodedImage) -> dict[str, Any]:
    """What is known of an image once it is decoded: digest, size and statistics, by column."""
    size = {"image_sha256": image.sha256, "width": image.width, "height": image.height}
    return size | image_statistics(image.pixels)


def _recalled(batch: Sequence[dict[str, Any]], kept: Kept) -> list[dict[str, Any]]:
    """What `_decode` would say of a batch, from what is kept of its images."""
    facts = iter(kept.facts)
    return [_sample_facts(sample) | (next(facts) if sample["reason"] is None else {}) for sample in batch]


def _sample_facts(sample: dict[str, Any]) -> dict[str, Any]:
    facts = {name: sample[name] for name in READ_COLUMNS}
    if sample["reason"] is None:
        return facts
    return facts | {"stage": "read", "reason": sample["reason"], "detail": sample["detail"]}


def _sha256(sample: dict[str, Any]) -> str:
    return hashlib.sha256(sample["image"]).hexdigest()
