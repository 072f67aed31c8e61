from __future__ import annotations

import numpy as np

from raymia.curation.match import pair_up, thin_strata


def test_pairs_lie_within_the_caliper_and_are_as_many_as_can_be() -> None:
    scores = np.array([0.0, 0.1, 0.5, 0.9, 1.0, 3.0])
    member = np.array([True, False, True, False, True, True])
    kept = pair_up(scores, member, 0.15)
    assert kept.tolist() == [0, 1, 3, 4]


def test_strata_are_thinned_to_equal_numbers() -> None:
    random = np.random.default_rng(0)
    member = np.arange(400) < 200
    scores = random.normal(size=400) + member
    kept = thin_strata(scores, member, seed=0)
    assert member[kept].sum() == (~member[kept]).sum()
    assert scores[kept][member[kept]].mean() - scores[kept][~member[kept]].mean() < 0.15
