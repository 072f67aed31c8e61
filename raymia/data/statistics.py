"""Image statistics that need no model: what a data set may give away by itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

EDGE_THRESHOLD = 0.1


def image_statistics(pixels: NDArray[np.uint8]) -> dict[str, float]:
    """Entropy (bits), colourfulness and edge density of an RGB image (height, width, 3).

    ``entropy`` is Shannon's, of the 256-bin histogram of luma. ``colourfulness`` is Hasler and Suesstrunk's measure
    (2003, eq. 10) on 0..255 values. ``edge_density`` is the share of pixels whose luma gradient exceeds 0.1 of the range.
    """
    rgb = pixels.astype(np.float32)
    luma = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    counts = np.bincount(luma.round().astype(np.int64).ravel(), minlength=256)
    shares = counts[counts > 0] / counts.sum()
    red_green = rgb[..., 0] - rgb[..., 1]
    yellow_blue = 0.5 * (rgb[..., 0] + rgb[..., 1]) - rgb[..., 2]
    spread = np.hypot(red_green.std(), yellow_blue.std())
    centre = np.hypot(red_green.mean(), yellow_blue.mean())
    down, right = np.gradient(luma / 255.0)
    return {
        "entropy": float(-(shares * np.log2(shares)).sum()),
        "colourfulness": float(spread + 0.3 * centre),
        "edge_density": float((np.hypot(down, right) > EDGE_THRESHOLD).mean()),
    }
