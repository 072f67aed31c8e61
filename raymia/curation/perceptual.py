"""Perceptual hashes: 64 bits of what a picture looks like, as the package ImageHash makes and tables of images hold them.

Of the picture in grey, reduced to 32 x 32, the lowest 8 x 8 frequencies of its discrete cosine transform are held against their
median (`imagehash.phash`, of ImageHash).
"""

from __future__ import annotations

import math
import re

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dct

from raymia.data.images import shown_and_stored
from raymia.data.pillow import guarded

BITS = 64
SIDE_PX = 32
FREQUENCIES = 8
FLAT = 1.0
"""Standard deviation of grey values, of 255, below which a picture has no hash: all such look alike, their bits are noise."""

_HEX = re.compile(r"(?:0x)?([0-9a-fA-F]{16})")


def perceptual_hashes(content: bytes, max_pixels: int) -> frozenset[int]:
    """The 64 bits of an image file, the first in the highest place; none of a picture of one tone.

    There are two where EXIF says that the picture is to be turned: that of the picture as it is shown, and that of the pixels
    as they stand in the file, which is what a program finds that does not look at EXIF, as `imagehash.phash` does not.

    Args:
        content: a file of one of `raymia.data.formats.FORMATS`.
        max_pixels: see `raymia.data.images.decode_image`.

    Raises:
        ImageError: the image cannot be used, with its reason.
    """
    hashes = map(_hash, shown_and_stored(content, max_pixels))
    return frozenset(found for found in hashes if found is not None)


def _hash(picture: Image.Image) -> int | None:
    with guarded():
        grey = picture.convert("L").resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    pixels = np.asarray(grey, np.float64)
    if pixels.std() < FLAT:
        return None
    lowest = dct(dct(pixels, axis=0), axis=1)[:FREQUENCIES, :FREQUENCIES]
    bits = (lowest > np.median(lowest)).ravel()
    return int.from_bytes(np.packbits(bits).tobytes())


def parse_hash(text: str | None) -> int | None:
    """The 64 bits that sixteen hexadecimal digits stand for; none for anything else."""
    found = _HEX.fullmatch(text.strip()) if text is not None else None
    return int(found[1], 16) if found else None


def written_hash(value: int) -> str:
    """The sixteen hexadecimal digits of a hash, of 64 bits with or without sign."""
    return f"{value % 2**BITS:016x}"


def hashes_of(column: pa.Array) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """The hashes in a column of a table, and which rows have one.

    Args:
        column: whole numbers of 64 bits, with or without sign, or text of sixteen hexadecimal digits.
    """
    there = np.asarray(column.is_valid())
    if pa.types.is_integer(column.type):
        numbers = np.asarray(column.fill_null(0).to_numpy(zero_copy_only=False))
        return numbers.astype(np.int64).view(np.uint64) if numbers.dtype != np.uint64 else numbers, there
    parsed = [parse_hash(text) for text in column.to_pylist()]
    there = np.array([value is not None for value in parsed], bool)
    return np.array([value or 0 for value in parsed], np.uint64), there


def expected_by_chance(works: int, rows: int, within: int) -> float:
    """How many pairs of a work and a row are that near to each other if all bits are thrown by coins.

    Args:
        works, rows: that have a hash.
        within: bits that may differ.
    """
    return works * rows * float(sum(math.comb(BITS, bits) for bits in range(within + 1)) / 2**BITS)
