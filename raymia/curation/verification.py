"""Whether two pictures are one and the same but for size, quality and a cropped margin, by their pixels.

Embeddings find what looks alike; LAION's authors of LAION-mi found by hand that of pairs of distance 0.3 to 0.5 most are no
duplicates. Here both pictures are reduced to grey thumbnails, one is trimmed at its margins in every way of a small grid, and
the correlation of the best fit decides.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raymia.data.images import ImageError, upright_image

SIDE = 32
TRIMS = (0.0, 0.025, 0.05, 0.075, 0.1)
"""Shares of width or height that may have been cropped from each side."""
MIN_AGREEMENT = 0.94
"""Correlation from which two pictures count as one."""

Thumbnail = NDArray[np.float32]


def grey_thumbnail(content: bytes, max_pixels: int) -> Thumbnail | None:
    """(SIDE, SIDE) luma of a whole picture, squeezed to a square; none where it does not decode or is too large."""
    try:
        upright, _ = upright_image(content, max_pixels)
    except ImageError:
        return None
    return np.asarray(upright.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)


def agreement(one: Thumbnail, other: Thumbnail) -> float:
    """Highest correlation of two thumbnails over all trims of the one or of the other, -1 to 1; 0 where one is uniform."""
    return max(_best_fit(one, other), _best_fit(other, one))


def _best_fit(whole: Thumbnail, part: Thumbnail) -> float:
    target = part - part.mean()
    norm = float(np.linalg.norm(target))
    if norm < 1e-3 * part.size:
        return 0.0
    rows = _trims() @ whole  # (trims, SIDE, SIDE): the height is trimmed
    fits = np.einsum("tik,sjk->tsij", rows, _trims(), optimize=True).reshape(-1, SIDE * SIDE)
    fits -= fits.mean(1, keepdims=True)
    norms = np.linalg.norm(fits, axis=1)
    return float((fits @ target.ravel() / np.maximum(norms * norm, 1e-6)).max())


@cache
def _trims() -> NDArray[np.float32]:
    """(trims, SIDE, SIDE): each resamples what a trim leaves of a line to SIDE values."""
    matrices = []
    for before in TRIMS:
        for after in TRIMS:
            centres = (before + (1 - before - after) * (np.arange(SIDE) + 0.5) / SIDE) * SIDE - 0.5
            centres = centres.clip(0, SIDE - 1)
            left = np.minimum(centres.astype(int), SIDE - 2)
            matrix = np.zeros((SIDE, SIDE), np.float32)
            matrix[np.arange(SIDE), left] = 1 - (centres - left)
            matrix[np.arange(SIDE), left + 1] += centres - left
            matrices.append(matrix)
    return np.stack(matrices)
