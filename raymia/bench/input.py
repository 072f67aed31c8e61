"""How many images a core reads: files to pixels and statistics, as a scan does it, against plain Pillow."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from PIL import Image
from pydantic import BaseModel

from raymia.data.images import MAX_PIXELS, decode_image
from raymia.data.statistics import image_statistics

T = TypeVar("T")

SIDES_PX = (600, 1000)
"""Range of widths and heights: what LAION's images typically have."""
QUALITY = 90
"""JPEG's quality setting."""
FILES = 48
"""How many files are read."""


class InputBench(BaseModel):
    """Images per second of one core; each rate is the median of the rounds."""

    resolution_px: int
    files: int
    mean_kib: float
    """Mean size of a file."""
    pillow_images_s: float
    """Rate of opening, converting, resizing (Lanczos) and cropping with Pillow, and nothing else."""
    decode_images_s: float
    """Rate of `decode_image`, which gives the same pixels, with all of its checks and the file's digest."""
    statistics_images_s: float
    """Rate of the image statistics, from pixels."""
    ratio: float
    """`decode_images_s` over `pillow_images_s`."""
    bytes_per_image: int
    """Bytes of one image's pixels, as they go through the object store."""


def bench_input(resolution_px: int = 512, rounds: int = 5, seed: int = 0) -> InputBench:
    """Time both ways in turn on the same JPEGs, in one thread.

    Args:
        resolution_px: side of the result.
        rounds: how often each way is timed.
        seed: seed of the images.
    """
    files = photographs(FILES, seed)
    pixels = [decode_image(file, resolution_px, MAX_PIXELS).pixels for file in files]
    plain: list[float] = []
    decoded: list[float] = []
    described: list[float] = []
    for _ in range(rounds):
        plain.append(_rate(lambda file: pillow(file, resolution_px), files))
        decoded.append(_rate(lambda file: decode_image(file, resolution_px, MAX_PIXELS), files))
        described.append(_rate(image_statistics, pixels))
    medians = [float(np.median(rates)) for rates in (plain, decoded, described)]
    return InputBench(
        resolution_px=resolution_px,
        files=len(files),
        mean_kib=float(np.mean([len(file) for file in files])) / 1024,
        pillow_images_s=medians[0],
        decode_images_s=medians[1],
        statistics_images_s=medians[2],
        ratio=medians[1] / medians[0],
        bytes_per_image=3 * resolution_px**2,
    )


def pillow(content: bytes, resolution_px: int) -> np.ndarray:
    """Decode at full size, resize the shorter side and crop the centre, as a plain script would.

    Args:
        content: an image file.
        resolution_px: side of the result.

    Returns:
        (resolution_px, resolution_px, 3) pixels.
    """
    image = Image.open(io.BytesIO(content)).convert("RGB")
    scale = resolution_px / min(image.size)
    width, height = (max(resolution_px, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (width - resolution_px) // 2, (height - resolution_px) // 2
    return np.asarray(image.crop((left, top, left + resolution_px, top + resolution_px)))


def photographs(count: int, seed: int) -> list[bytes]:
    """JPEG files with the smooth areas, edges and grain of photographs, of the sizes that LAION's have."""
    random = np.random.default_rng(seed)
    files = []
    for _ in range(count):
        width, height = random.integers(*SIDES_PX, 2, endpoint=True).tolist()
        coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.float32)
        grain = random.normal(0, 6, (height, width, 1))
        buffer = io.BytesIO()
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
        files.append(buffer.getvalue())
    return files


def _rate(work: Callable[[T], object], items: Sequence[T]) -> float:
    start = time.perf_counter()
    for item in items:
        work(item)
    return len(items) / (time.perf_counter() - start)
