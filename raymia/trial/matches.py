"""Where two images match, and how many of several are one and the same."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

WHOLE = "whole"
ROWS, COLUMNS = ("upper", "", "lower"), ("left", "centre", "right")


def windows(images: Float[Tensor, "batch 3 H W"]) -> dict[str, Float[Tensor, "batch 3 h w"]]:
    """Nine windows of half the sides, three by three and overlapping, by the words for where they lie."""
    height, width = images.shape[-2:]
    tall, wide = max(1, height // 2), max(1, width // 2)
    found = {}
    for row, upper in zip(ROWS, (0, (height - tall) // 2, height - tall), strict=True):
        for column, left in zip(COLUMNS, (0, (width - wide) // 2, width - wide), strict=True):
            found[f"{row} {column}".strip()] = images[..., upper : upper + tall, left : left + wide]
    return found


def largest_cluster(descriptors: Float[np.ndarray, "images width"], near: float) -> int:
    """Size of the largest set of images that are all at least `near` alike to one another, found by complete linkage.

    No pair of such a set is further apart, so that its size is never overstated; a larger set may be there where images are
    alike to one another in chains.

    Args:
        descriptors: unit ones.
        near: cosine, inclusive.
    """
    if len(descriptors) == 1:
        return 1
    # Rounding makes no difference between images that are exactly as near as that.
    apart = np.clip(1.0 - descriptors @ descriptors.T, 0.0, 2.0).round(9)
    np.fill_diagonal(apart, 0.0)
    tree = linkage(squareform(apart, checks=False), "complete")
    return int(np.bincount(fcluster(tree, round(1.0 - near, 9), "distance")).max())
