"""Whether two pictures are one and the same but for size, quality and a cropped margin, by their pixels.

Embeddings find what looks alike; the authors of LAION-mi found by hand that of pairs at distance 0.3 to 0.5 most are no
duplicates. Here both pictures are reduced to thumbnails, one is trimmed at its margins in every way of a coarse grid and of
finer ones around the best, and the correlation of the best fit decides.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raymia.data.images import ImageError, upright_image

COMPARED_PX = 64
"""Side of a thumbnail."""
COARSE_PX, FINE_PX = 24, 32
"""Sides at which a trim is searched for, and at which two thumbnails are compared."""
TRIMS = (0.0, 0.025, 0.05, 0.075, 0.1)
"""Shares of width or height that may have been cropped from each side: the coarse grid."""
TRIM_STEPS = (0.0125, 0.00625)
"""Changes of one share that are tried around the best trim of the coarse grid, one after the other."""
BLUR = 0.6
"""Standard deviation of the resampling kernel, in pixels of the result: lines look alike wherever pixels fall on them."""
MIN_AGREEMENT = 0.983
"""Correlation from which two pictures count as one: of 600 planted twins of openclipart's pictures (reduced to 60 %, or JPEG at
quality 40, or cropped by 5 % at two sides) 98 % reach it, and 3 % of the pairs that reach it are none."""

Thumbnail = NDArray[np.uint8]
"""(COMPARED_PX, COMPARED_PX, 3) pixels."""
Picture = NDArray[np.float32]
"""(height, width, 3) values, or (height, width) where colours are averaged."""
Trim = tuple[float, float, float, float]
"""Shares cropped from top, bottom, left and right."""
WHOLE: Trim = (0.0, 0.0, 0.0, 0.0)
"""The trim that leaves everything."""


def thumbnail_of(content: bytes, max_pixels: int) -> Thumbnail | None:
    """A whole picture squeezed to a square thumbnail; none where it does not decode or is too large.

    Args:
        content: an image file.
        max_pixels: a picture whose header announces more is too large.
    """
    try:
        upright, _ = upright_image(content, max_pixels)
    except ImageError:
        return None
    return np.asarray(upright.convert("RGB").resize((COMPARED_PX, COMPARED_PX), Image.Resampling.BOX), np.uint8)


def agreement(one: Thumbnail, other: Thumbnail) -> float:
    """Highest correlation of two thumbnails, -1 to 1, over all trims of either; 0 where one of them is uniform."""
    pictures = one.astype(np.float32), other.astype(np.float32)
    return max(_best_fit(*pictures), _best_fit(*reversed(pictures)))


def _best_fit(whole: Picture, part: Picture) -> float:
    """Highest correlation of `part` with what a trim leaves of `whole`."""
    target, outline = _centred(_resampled(part, WHOLE)), _centred(_coarse(part))
    norm = float(np.linalg.norm(outline))
    if norm < 1e-3 * outline.size:
        return 0.0
    trims = [(before, after) for before in TRIMS for after in TRIMS]
    kernels = np.stack([_kernel(before, after, COARSE_PX) for before, after in trims])
    rows = kernels @ whole.mean(-1)  # (trims, COARSE_PX, COMPARED_PX): the height is trimmed
    fits = np.einsum("tik,sjk->tsij", rows, kernels, optimize=True).reshape(len(trims) ** 2, -1)
    fits -= fits.mean(1, keepdims=True)
    nearest = int((fits @ outline.ravel() / np.maximum(np.linalg.norm(fits, axis=1), 1e-6)).argmax())
    trim: Trim = (*trims[nearest // len(trims)], *trims[nearest % len(trims)])
    best = _correlation(_resampled(whole, trim), target)
    for step in TRIM_STEPS:
        for side in range(4):
            for change in (-step, step):
                tried = _moved(trim, side, change)
                fit = _correlation(_resampled(whole, tried), target)
                if fit > best:
                    best, trim = fit, tried
    return best


def _moved(trim: Trim, side: int, change: float) -> Trim:
    """A trim with one of its shares changed."""
    shares = list(trim)
    shares[side] = max(0.0, round(shares[side] + change, 5))
    return shares[0], shares[1], shares[2], shares[3]


def _coarse(picture: Picture) -> Picture:
    """(COARSE_PX, COARSE_PX) brightness of a whole picture."""
    kernel = _kernel(0.0, 0.0, COARSE_PX)
    reduced: Picture = kernel @ picture.mean(-1) @ kernel.T
    return reduced


def _resampled(picture: Picture, trim: Trim) -> Picture:
    """(FINE_PX, FINE_PX, 3): what a trim leaves of a picture."""
    rows = np.tensordot(_kernel(trim[0], trim[1], FINE_PX), picture, (1, 0))
    resampled: Picture = np.moveaxis(np.tensordot(_kernel(trim[2], trim[3], FINE_PX), rows, (1, 1)), 0, 1)
    return resampled


def _centred(picture: Picture) -> Picture:
    """A picture less its mean, by colour where it has colours."""
    centred: Picture = picture - picture.mean((0, 1))
    return centred


def _correlation(picture: Picture, target: Picture) -> float:
    centred = _centred(picture)
    return float((centred * target).sum() / max(np.linalg.norm(centred) * np.linalg.norm(target), 1e-6))


@lru_cache(4096)
def _kernel(before: float, after: float, side: int) -> NDArray[np.float32]:
    """(side, COMPARED_PX): resamples what is left of a line, cropped at both ends, by a Gaussian kernel."""
    left = 1.0 - before - after
    centres = (before + left * (np.arange(side) + 0.5) / side) * COMPARED_PX - 0.5
    distances = (np.arange(COMPARED_PX) - centres[:, None]) / (BLUR * left * COMPARED_PX / side)
    weights = np.exp(-0.5 * distances**2)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)
