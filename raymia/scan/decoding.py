"""Batches of image files to batches of pixels, with what is known of each image. No Ray."""

from __future__ import annotations

import time
from typing import Any

import pyarrow as pa

from raymia.data.images import DecodedImage, ImageError, decode_image
from raymia.data.statistics import image_statistics

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
