"""The shift of embeddings between splits, against the closed form."""

from __future__ import annotations

import numpy as np
import pytest

from raymia.evaluation.frechet import frechet_distance, frechet_shift


def test_frechet_distance_of_normal_distributions_is_the_closed_form() -> None:
    random = np.random.default_rng(6)
    one, other = random.normal(0, 1, (200_000, 3)), random.normal(1, 2, (200_000, 3))
    assert frechet_distance(one, other) == pytest.approx(3 * 1 + 3 * (1 - 2) ** 2, rel=0.02)
    member = np.arange(600) < 300
    same = random.normal(size=(600, 8))
    shift = frechet_shift(same, member)
    assert shift.distance < 1.5 * shift.of_random_halves
    moved = frechet_shift(same + member[:, None], member)
    assert moved.distance > 5 * moved.of_random_halves
