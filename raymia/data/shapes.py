"""The sizes that images are resized to: one square, or several shapes of which each image takes the nearest to its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

Size = tuple[int, int]
"""Height and width in px."""
Placed = tuple[int, int, int, int]
"""Height and width of an image, and top and left of its crop once it was resized."""


@dataclass(frozen=True)
class Shapes:
    """Sizes of images in front of a model, in order of preference among equals."""

    sizes: tuple[Size, ...]

    def nearest(self, height: int, width: int) -> Size:
        """The size whose aspect is nearest to that of an upright image, by the ratio of the two."""
        return min(self.sizes, key=lambda size: abs(math.log(size[0] * width / (size[1] * height))))

    def placed(self, height: int, width: int) -> Placed:
        """An upright image's size, and where its crop to the nearest size begins."""
        return height, width, *crop_corner((height, width), self.nearest(height, width))


def crop_corner(original: Size, size: Size) -> tuple[int, int]:
    """Top and left of the centre crop of an image that was resized until it covers a size."""
    scale = max(wanted / side for wanted, side in zip(size, original, strict=True))
    top, left = ((max(wanted, round(side * scale)) - wanted) // 2 for wanted, side in zip(size, original, strict=True))
    return top, left


def square(side_px: int) -> Shapes:
    """One square."""
    return Shapes(((side_px, side_px),))
