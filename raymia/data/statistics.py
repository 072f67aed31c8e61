"""Image statistics that need no model: what a data set may give away by itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

EDGE_THRESHOLD = 0.1
"""Share of the brightness range that a gradient must exceed to count as an edge."""


class Channels:
    """The planes of an RGB image (height, width, 3) on 0..255, each made once.

    Attributes:
        red, green, blue: (height, width) values on 0..255.
    """

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        """Split pixels (height, width, 3) into planes."""
        self.red, self.green, self.blue = (
            np.ascontiguousarray(pixels[..., channel]).astype(np.float32) for channel in range(3)
        )

    @cached_property
    def luma(self) -> NDArray[np.float32]:
        """(height, width) brightness on 0..255, by the weights of ITU-R BT.601."""
        red, green, blue = np.float32(0.299), np.float32(0.587), np.float32(0.114)
        return np.asarray(red * self.red + green * self.green + blue * self.blue, np.float32)


def entropy(image: Channels) -> float:
    """Shannon's entropy of the 256-bin histogram of luma, in bits."""
    counts = np.bincount(np.rint(image.luma).astype(np.uint8).ravel(), minlength=256)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def colourfulness(image: Channels) -> float:
    """Hasler and Suesstrunk's measure (2003, eq. 10) on 0..255 values."""
    red_green = image.red - image.green
    yellow_blue = np.float32(0.5) * (image.red + image.green) - image.blue
    spread = np.hypot(red_green.std(), yellow_blue.std())
    centre = np.hypot(red_green.mean(), yellow_blue.mean())
    return float(spread + 0.3 * centre)


def edge_density(image: Channels) -> float:
    """Share of pixels whose luma gradient exceeds 0.1 of the range."""
    down, right = np.gradient(image.luma)
    steepness = down * down + right * right
    return float((steepness > (255.0 * EDGE_THRESHOLD) ** 2).mean())


STATISTICS: dict[str, Callable[[Channels], float]] = {
    "entropy": entropy,
    "colourfulness": colourfulness,
    "edge_density": edge_density,
}
"""The statistics by the name of their column; a further one is a function and an entry here."""


def image_statistics(pixels: NDArray[np.uint8]) -> dict[str, float]:
    """Every statistic of an RGB image (height, width, 3), by name."""
    image = Channels(pixels)
    return {name: statistic(image) for name, statistic in STATISTICS.items()}
