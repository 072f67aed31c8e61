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
    red, green, blue = (np.ascontiguousarray(pixels[..., channel]).astype(np.float32) for channel in range(3))
    luma = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    counts = np.bincount(np.rint(luma).astype(np.uint8).ravel(), minlength=256)
    shares = counts[counts > 0] / counts.sum()
    red_green = red - green
    yellow_blue = np.float32(0.5) * (red + green) - blue
    spread = np.hypot(red_green.std(), yellow_blue.std())
    centre = np.hypot(red_green.mean(), yellow_blue.mean())
    down, right = np.gradient(luma)
    steepness = down * down + right * right
    return {
        "entropy": float(-(shares * np.log2(shares)).sum()),
        "colourfulness": float(spread + 0.3 * centre),
        "edge_density": float((steepness > (255.0 * EDGE_THRESHOLD) ** 2).mean()),
    }
