"""Randomised hold-backs: p is that of a count by hand, exact whatever scores look like, and falls where works were learnt."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import kstest, permutation_test
from sklearn.metrics import roc_auc_score

from raymia.errors import RaymiaError
from raymia.evaluation.canary import CanaryTest, canary_test, every_draw, random_draws, unit_scores

NONE = np.zeros(0, np.int64)


def drawn(random: np.random.Generator, units: int) -> np.ndarray:
    published = np.zeros(units, bool)
    published[random.permutation(units)[: units // 2]] = True
    return published


def result_of(scores: np.ndarray, published: np.ndarray, redraws: int = 999, seed: int = 0) -> CanaryTest:
    found = unit_scores(scores, np.arange(len(scores)), NONE, len(scores))
    return canary_test(found, published, [f"s{number}" for number in range(scores.shape[1])], redraws, seed)


def brute_force(
    scores: np.ndarray, unit: np.ndarray, published: np.ndarray, fills: dict[int, np.ndarray] | None = None
) -> float:
    """p by loops: every draw of so many units, means of the works' means, the highest signal.

    Args:
        fills: score of a missing work, by unit.
    """
    units = len(published)
    rows: dict[int, list[np.ndarray]] = {number: [] for number in range(units)}
    for row, number in zip(scores, unit, strict=True):
        rows[int(number)].append(row)
    spread = np.std([np.mean(mine, axis=0) for mine in rows.values() if mine], axis=0)
    for number, fill in (fills or {}).items():
        rows[number].append(fill)
    means = {number: np.mean(mine, axis=0) for number, mine in rows.items() if mine}

    def highest(chosen: set[int]) -> float:
        ours = [mean for number, mean in means.items() if number in chosen]
        theirs = [mean for number, mean in means.items() if number not in chosen]
        if not ours or not theirs:
            return np.inf
        return float(max((np.mean(ours, axis=0) - np.mean(theirs, axis=0)) / spread))

    true = highest(set(np.flatnonzero(published).tolist()))
    ways = [highest(set(way)) for way in itertools.combinations(range(units), int(published.sum()))]
    return sum(way >= true - 1e-9 for way in ways) / len(ways)


@pytest.mark.parametrize("seed", range(4))
def test_p_is_the_share_of_all_draws_that_come_out_as_high(seed: int) -> None:
    random = np.random.default_rng(seed)
    published = drawn(random, 11)
    unit = random.permutation(np.r_[np.arange(10), random.integers(0, 10, 12)])  # unit 10 has lost all its works
    scores = random.normal(size=(22, 3)) * [1, 10, 100] + 0.6 * published[unit][:, None]
    found = unit_scores(scores, unit, NONE, 11)
    result = canary_test(found, published, ["a", "b", "c"], 1000, 0)
    assert (result.enumerated, result.draws, result.published + result.held_back) == (True, 462, 10)
    assert result.p == pytest.approx(brute_force(scores, unit, published))
    for column, signal in enumerate(result.signals):
        assert signal.p == pytest.approx(brute_force(scores[:, [column]], unit, published))
        assert signal.p_adjusted >= signal.p
        means = [scores[unit == number, column].mean() for number in range(10)]
        assert signal.auc == pytest.approx(roc_auc_score(published[:10], means))
    assert result.p == min(signal.p_adjusted for signal in result.signals)


def test_of_one_signal_p_is_that_of_scipys_permutation_test() -> None:
    random = np.random.default_rng(5)
    published = drawn(random, 12)
    scores = random.integers(0, 4, (12, 1)) + published[:, None]  # with ties
    theirs = permutation_test(
        (scores[published, 0], scores[~published, 0]),
        lambda x, y: x.mean() - y.mean(),
        alternative="greater",
        n_resamples=np.inf,
    )
    ours = result_of(scores.astype(float), published)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert ours.signals[0].auc == pytest.approx(roc_auc_score(published, scores[:, 0]))


def test_random_redraws_come_near_to_all_of_them_and_are_the_same_each_time() -> None:
    random = np.random.default_rng(6)
    published = drawn(random, 16)
    scores = random.normal(size=(16, 2)) + 0.5 * published[:, None]
    every, some = result_of(scores, published, 20_000), result_of(scores, published, 9_999)
    assert (every.enumerated, some.enumerated, some.draws) == (True, False, 10_000)
    assert some.p == pytest.approx(every.p, abs=4 * np.sqrt(every.p / 10_000))
    assert some == result_of(scores, published, 9_999)
    assert some.p != result_of(scores, published, 9_999, seed=1).p


def test_redraws_publish_as_many_units_as_the_plan_and_each_unit_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raymia.evaluation.canary.CELLS", 100)  # so that they come in many parts
    draws = np.concatenate(list(random_draws(7, 3, 7_000, 0)))
    assert draws.shape == (7_000, 7)
    assert (draws.sum(axis=1) == 3).all()
    assert draws.mean(axis=0) == pytest.approx(np.full(7, 3 / 7), abs=0.03)
    every = np.concatenate(list(every_draw(7, 3)))
    assert {tuple(row) for row in every} == {tuple(row) for row in draws}
    assert len(every) == 35


WAYS = {
    "normal": lambda random: random.normal(size=(20, 2)),
    "heavy tails": lambda random: random.standard_cauchy(size=(20, 2)),
    "correlated": lambda random: random.normal(size=(20, 1)) + 0.1 * random.normal(size=(20, 3)),
    "by topic": lambda random: np.r_[random.normal(size=(15, 2)), random.normal(5, 3, (5, 2))],
}


@pytest.mark.parametrize("way", WAYS)
def test_p_is_uniform_where_nothing_was_learnt_whatever_the_scores_look_like(way: str) -> None:
    found = []
    for number in range(500):
        random = np.random.default_rng(number)
        scores = WAYS[way](random)
        found.append(result_of(scores, drawn(random, 20), redraws=99, seed=number).p)
    assert kstest(found, "uniform").pvalue > 0.001
    assert 0.02 < np.mean(np.array(found) <= 0.05) < 0.085  # 4 standard deviations below and above


def test_what_was_learnt_is_found_the_more_surely_the_more_units_there_are() -> None:
    power = []
    for units in (20, 60, 200):
        p = []
        for number in range(40):
            random = np.random.default_rng(number)
            published = drawn(random, units)
            p.append(result_of(random.normal(size=(units, 2)) + 0.5 * published[:, None], published, 199, number).p)
        power.append(np.mean(np.array(p) <= 0.05))
    assert power[0] < power[1] < power[2]
    assert power[2] > 0.9


def test_a_signal_counts_one_way_and_one_that_says_the_same_of_all_says_nothing() -> None:
    published = np.arange(10) < 5
    scores = np.arange(10.0)[::-1, None]
    assert result_of(scores, published).p == 1 / 252
    assert result_of(-scores, published).p == 1.0
    assert result_of(np.full((10, 1), 1 / 3), published).p == 1.0
    assert result_of(np.c_[scores, np.full(10, 1 / 3)], published).p == 1 / 252


@pytest.mark.parametrize("seed", range(6))
def test_whatever_missing_works_scored_within_the_range_of_the_others_p_would_be_no_higher(seed: int) -> None:
    random = np.random.default_rng(seed)
    published = drawn(random, 9)
    unit = np.r_[np.arange(7), random.integers(0, 7, 5)]  # unit 7 is missing as a whole, unit 8 lost its works to quarantine
    scores = random.normal(size=(12, 2)) + 1.5 * published[unit][:, None]
    missing = np.array([7, 2], np.int64)
    result = canary_test(unit_scores(scores, unit, missing, 9), published, ["a", "b"], 1000, 0)
    low, high = scores.min(axis=0), scores.max(axis=0)
    fills = [dict(zip(missing.tolist(), random.uniform(low, high, (2, 2)), strict=True)) for _ in range(15)]
    fills += [{7: one, 2: other} for one in (low, high) for other in (low, high)]
    p = [brute_force(scores, unit, published, fill) for fill in fills]
    assert max(p) <= result.p + 1e-12
    assert max(p) > min(p), "the missing works matter here"


def test_of_one_signal_with_all_units_there_the_worst_case_is_one_that_can_come_true() -> None:
    random = np.random.default_rng(3)
    published = drawn(random, 9)
    unit = np.r_[np.arange(8), 0]
    scores = random.normal(size=(9, 1)) + published[unit][:, None]
    result = canary_test(unit_scores(scores, unit, np.array([8], np.int64), 9), published, ["a"], 1000, 0)
    worst = scores.min(axis=0) if published[8] else scores.max(axis=0)
    assert result.p == pytest.approx(brute_force(scores, unit, published, {8: worst}))


def test_without_scores_on_both_sides_there_is_nothing_to_compare() -> None:
    published = np.arange(10) < 5
    with pytest.raises(RaymiaError, match="none of the held-back works was scored"):
        canary_test(unit_scores(np.ones((5, 1)), np.arange(5), NONE, 10), published, ["a"], 99, 0)
    with pytest.raises(RaymiaError, match="no planned work was scored"):
        unit_scores(np.ones((0, 1)), NONE, NONE, 10)
