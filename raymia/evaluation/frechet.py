"""The Fréchet distance between the image embeddings of members and of non-members, beside what chance gives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from raymia.evaluation.roc import Floats

SHUFFLES = 20


class FrechetShift(BaseModel):
    """How far apart the splits' image embeddings lie."""

    distance: float
    of_random_halves: float
    """The largest of twenty distances between random halves of the same samples: what chance gives."""


def frechet_distance(one: Floats, other: Floats) -> float:
    """Squared distance of two normal distributions with the means and covariances of these rows.

    ||m1 - m2||^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), the quantity of Heusel et al., arXiv 1706.08500, over CLIP embeddings.

    Args:
        one, other: (n, width) and (m, width) embeddings.
    """
    covariances = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    # The product of two covariances has real, non-negative eigenvalues, whose roots are those of the matrix root.
    roots = np.sqrt(np.clip(np.linalg.eigvals(covariances[0] @ covariances[1]).real, 0.0, None))
    squared = np.square(one.mean(0) - other.mean(0)).sum()
    return float(squared + np.trace(covariances[0]) + np.trace(covariances[1]) - 2.0 * roots.sum())


def frechet_shift(vectors: Floats, member: NDArray[np.bool_], seed: int = 0) -> FrechetShift:
    """Fréchet distance between members and non-members, and between random halves of the same sizes.

    Args:
        vectors: (n, width) embeddings.
        member: (n,) labels with both classes.
    """
    random = np.random.default_rng(seed)
    shuffled = []
    for _ in range(SHUFFLES):
        labels = random.permutation(member)
        shuffled.append(frechet_distance(vectors[labels], vectors[~labels]))
    return FrechetShift(distance=frechet_distance(vectors[member], vectors[~member]), of_random_halves=max(shuffled))
