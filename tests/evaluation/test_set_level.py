"""Tests of sets: never more false alarms than they say, whatever the scores look like, and the same answer for every seed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest, ttest_ind

from benchmarks.set_level import WAYS, correlated, twins
from raymia.errors import RaymiaError
from raymia.evaluation.set_level import mean_p, set_test, split_p, splits_p, units


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [10, 50])
def test_p_of_the_mean_is_uniform_or_larger_where_nothing_was_trained_on(way: str, size: int) -> None:
    draw, ratio = WAYS[way]
    found = []
    for number in range(500):
        random = np.random.default_rng(number)
        found.append(mean_p(draw(random, size), draw(random, int(ratio * size))))
    assert kstest(found, "uniform", alternative="greater").pvalue > 0.001
    assert np.mean(np.array(found) < 0.05) < 0.08


def test_p_of_one_split_is_uniform_and_that_of_many_raises_no_more_false_alarms() -> None:
    random = np.random.default_rng(7)
    alike = [(random.normal(size=(60, 5)), random.normal(size=(60, 5))) for _ in range(120)]
    assert kstest([split_p(*both, number) for number, both in enumerate(alike)], "uniform").pvalue > 0.01
    assert np.mean([splits_p(*both, 0, splits=7) < 0.05 for both in alike]) <= 0.05


def test_the_mean_is_welchs_test_of_standardised_signals() -> None:
    random = np.random.default_rng(0)
    suspect, control = random.normal(0.3, 1, (40, 3)) * [1, 10, 100], random.normal(size=(50, 3)) * [1, 10, 100]
    scale, centre = control.std(axis=0, ddof=1), control.mean(axis=0)
    ours, theirs = (((rows - centre) / scale).mean(axis=1) for rows in (suspect, control))
    assert mean_p(suspect, control) == pytest.approx(ttest_ind(ours, theirs, equal_var=False, alternative="greater").pvalue)
    constant = np.zeros((50, 1))
    assert mean_p(np.c_[suspect, constant[:40]], np.c_[control, constant]) == pytest.approx(mean_p(suspect, control))
    assert mean_p(constant, constant) == 1.0


def test_sizes_alone_decide_which_test_counts_and_no_seed_changes_the_answer_much() -> None:
    random = np.random.default_rng(1)
    suspect, control = random.normal(0.25, 1, (150, 5)), random.normal(size=(150, 5))
    many, few = set_test(suspect, control), set_test(suspect[:99], control)
    assert (many.counted, many.p) == ("splits", many.p_splits)
    assert (few.counted, few.p) == ("mean", few.p_mean)
    logs = [np.log10(set_test(suspect, control, seed=seed).p) for seed in range(3)]
    single = [np.log10(split_p(suspect, control, seed)) for seed in range(12)]
    assert max(logs) - min(logs) < 1 < max(single) - min(single)
    assert many.false_positives is not None
    assert many.false_positives <= 0.12
    assert [point.n for point in many.by_size] == [10, 20, 50, 100]
    assert many.by_size[0].median_p > many.by_size[-1].median_p


def test_only_primary_signals_have_a_sign_to_take_a_mean_of() -> None:
    random = np.random.default_rng(2)
    suspect, control = random.normal(size=(60, 2)), random.normal(size=(60, 2))
    suspect[:, 1] -= 2
    found = set_test(suspect, control, primary=np.array([True, False]))
    assert (found.primary, found.signals) == (1, 2)
    assert found.p_mean == mean_p(suspect[:, :1], control[:, :1])
    assert found.p_splits is not None
    assert found.p_splits < 1e-6, "a fitted direction finds a difference whose sign nobody declared"


def series(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scores of 20 series of one to seven works that score nearly alike, and which series each is of."""
    sizes = random.integers(1, 8, 20)
    rows = np.repeat(correlated(random, 20), sizes, axis=0)
    return rows + 0.1 * random.normal(size=rows.shape), np.repeat(np.arange(20), sizes)


def test_works_that_belong_together_count_once() -> None:
    random = np.random.default_rng(3)
    apart, together = [], []
    for _ in range(200):
        (suspect, ours), (control, theirs) = series(random), series(random)
        apart.append(mean_p(suspect, control) < 0.05)
        together.append(mean_p(units(suspect, ours), units(control, theirs)) < 0.05)
    assert np.mean(together) < 0.09 < np.mean(apart)
    found = set_test(twins(random, 40), twins(random, 40), groups=(np.arange(40) // 4, None))
    assert (found.n_suspect, found.units_suspect, found.units_control) == (40, 10, 40)
    assert found.p_splits is None


def test_sets_that_are_too_small_are_refused() -> None:
    rows = np.random.default_rng(4).normal(size=(30, 2))
    with pytest.raises(RaymiaError, match="the suspect set has 9 scored samples or clusters; expected at least 10"):
        set_test(rows[:9], rows)
    with pytest.raises(RaymiaError, match="the control set has 6 scored samples or clusters"):
        set_test(rows, rows, groups=(None, np.arange(30) // 5))
