"""Sets of near-identical images against all subsets, and windows against their corners."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch

from raymia.trial.matches import largest_cluster, windows


def largest_clique(descriptors: np.ndarray, near: float) -> int:
    """By trying every subset."""
    alike = descriptors @ descriptors.T >= near - 1e-9
    sizes = range(len(descriptors), 0, -1)
    return next(n for n in sizes for own in combinations(range(len(descriptors)), n) if alike[np.ix_(own, own)].all())


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_largest_set_of_near_identical_images_is_found_and_never_overstated() -> None:
    random = np.random.default_rng(0)
    exact = 0
    for trial in range(60):
        centres = random.normal(size=(3, 6))
        spread = (0.02, 0.4, 0.8)[trial % 3]
        draws = unit(centres[random.integers(0, 3, 8)] + spread * random.normal(size=(8, 6)))
        found, true = largest_cluster(draws, 0.75), largest_clique(draws, 0.75)
        assert 1 <= found <= true
        exact += found == true
        if spread == 0.02:
            assert found == true, "images that are plainly the same or plainly not"
    assert exact >= 50


def test_one_image_is_a_set_and_equal_ones_are_all_of_it_at_any_threshold() -> None:
    one = unit(np.random.default_rng(1).normal(size=(1, 5)))
    assert largest_cluster(one, 0.9) == 1
    assert largest_cluster(np.repeat(one, 7, axis=0), 1.0) == 7
    assert largest_cluster(np.eye(4), 0.1) == 1


def test_windows_are_named_by_where_they_lie() -> None:
    image = torch.zeros(1, 3, 8, 12)
    image[..., 6, 10] = 1.0
    holding = [word for word, crop in windows(image).items() if crop.sum() > 0]
    assert holding == ["lower right"]
    image[..., 6, 10] = 0.0
    image[..., 3, 5] = 1.0
    holding = [word for word, crop in windows(image).items() if crop.sum() > 0]
    assert holding == ["upper left", "upper centre", "left", "centre"]
    assert {tuple(crop.shape[-2:]) for crop in windows(image).values()} == {(4, 6)}
    assert len(windows(image)) == 9
    assert [tuple(crop.shape[-2:]) for crop in windows(torch.zeros(1, 3, 1, 1)).values()] == [(1, 1)] * 9
