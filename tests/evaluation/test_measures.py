"""Measures: each against a second truth, on the whole sample and on the bootstrap's resamples, ties included."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from raymia.evaluation.bootstrap import Resampled, bootstrap, resamples
from raymia.evaluation.measures.base import MEASURES, Measure, TprAtFpr, intervals, measures, statistics, tpr_measures
from raymia.evaluation.measures.partial_auc_1_percent import PartialAuc
from raymia.evaluation.roc import FPRS, Floats, Roc, exact_roc

SIZES = [(300, 400), (50, 30), (700, 512), (1000, 2000), (3, 1000)]
"""Members and non-members: 1 % of the latter is a whole number, less than one, or between two."""


def sample_of(n_members: int, n_others: int, tied: bool, seed: int = 0) -> tuple[Floats, np.ndarray]:
    random = np.random.default_rng(seed)
    member = random.permutation(np.arange(n_members + n_others) < n_members)
    scores = random.normal(size=len(member)) + 1.2 * member
    return np.round(scores, 1) if tied else scores, member


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_the_partial_auc_is_that_of_sklearn(size: tuple[int, int], tied: bool) -> None:
    for seed in range(20):
        scores, member = sample_of(*size, tied, seed)
        expected = roc_auc_score(member, scores, max_fpr=0.01)
        assert PartialAuc().value(exact_roc(scores, member)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_every_draw_of_every_measure_is_its_value_on_that_resample(size: tuple[int, int], tied: bool) -> None:
    scores, member = sample_of(*size, tied)
    draws = bootstrap({"s": scores}, member, statistics(measures()), seed=5, draws=20)["s"]
    drawn = [counts for part in resamples(*size, seed=5, draws=20) for counts in zip(*part, strict=True)]
    assert len(drawn) == 20
    labels = np.arange(sum(size)) < size[0]
    for i, (members, others) in enumerate(drawn):
        rows = np.r_[np.repeat(scores[member], members), np.repeat(scores[~member], others)]
        curve = exact_roc(rows, labels)
        for measure in measures():
            assert draws[measure.name][i] == pytest.approx(measure.value(curve), abs=1e-12), measure.name
        assert draws["auc"][i] == pytest.approx(roc_auc_score(labels, rows), abs=1e-12)
        assert draws["partial_auc_1_percent"][i] == pytest.approx(roc_auc_score(labels, rows, max_fpr=0.01), abs=1e-12)


def test_the_draws_of_the_partial_auc_are_those_of_sklearn_with_sample_weights() -> None:
    scores, member = sample_of(300, 400, tied=True, seed=3)
    draws = bootstrap({"s": scores}, member, statistics([PartialAuc()]), seed=7, draws=5)["s"]["partial_auc_1_percent"]
    members, others = next(resamples(300, 400, seed=7, draws=5))
    for i in range(5):
        weights = np.zeros(700)
        weights[member], weights[~member] = members[i], others[i]
        expected = roc_auc_score(member, scores, max_fpr=0.01, sample_weight=weights)
        assert draws[i] == pytest.approx(expected, abs=1e-12)


def test_the_partial_auc_of_two_normal_distributions_is_the_closed_form() -> None:
    fprs = np.linspace(0.0, 0.01, 200_001)[1:]
    area = float(norm.sf(norm.isf(fprs) - 1.0).mean()) * 0.01
    truth = 0.5 * (1 + (area - 0.00005) / (0.01 - 0.00005))
    random, member = np.random.default_rng(0), np.arange(400_000) < 200_000
    value = PartialAuc().value(exact_roc(random.normal(size=400_000) + member, member))
    assert value == pytest.approx(truth, abs=0.002)


@pytest.mark.parametrize("measure", measures(), ids=lambda measure: measure.name)
def test_a_measure_is_1_for_a_perfect_score_and_what_it_says_for_guessing(measure: Measure) -> None:
    member = np.arange(200_000) < 100_000
    random = np.random.default_rng(1)
    assert measure.value(exact_roc(member.astype(float), member)) == pytest.approx(1.0)
    assert measure.value(exact_roc(random.normal(size=200_000), member)) == pytest.approx(measure.chance, abs=0.005)


def test_the_partial_auc_of_a_score_that_ties_everything_is_that_of_guessing() -> None:
    member = np.arange(60) < 20
    assert PartialAuc().value(exact_roc(np.zeros(60), member)) == pytest.approx(0.5, abs=1e-12)
    draws = bootstrap({"s": np.zeros(60)}, member, statistics([PartialAuc()]), draws=10)["s"]["partial_auc_1_percent"]
    assert draws == pytest.approx(0.5, abs=1e-12)


def test_the_interval_of_the_partial_auc_covers_the_truth_as_often_as_it_says() -> None:
    fprs = np.linspace(0.0, 0.01, 20_001)[1:]
    area = float(norm.sf(norm.isf(fprs) - 1.5).mean()) * 0.01
    truth = 0.5 * (1 + (area - 0.00005) / (0.01 - 0.00005))
    member, covered = np.arange(4000) < 2000, 0
    for seed in range(150):
        scores = np.random.default_rng(seed).normal(size=4000) + 1.5 * member
        draws = bootstrap({"s": scores}, member, statistics(measures()), seed, draws=200)["s"]
        found = intervals(exact_roc(scores, member), draws)["partial_auc_1_percent"]
        covered += found.low <= truth <= found.high
    assert 0.88 <= covered / 150 <= 0.99


def test_every_file_is_a_measure_and_they_stand_in_the_order_that_they_name() -> None:
    assert set(MEASURES.names()) == {measure.name for measure in measures()}
    assert [measure.name for measure in measures()] == [
        "auc",
        "tpr_at_10_percent",
        "tpr_at_1_percent",
        "tpr_at_0_1_percent",
        "partial_auc_1_percent",
    ]
    assert tuple(measure.fpr for measure in tpr_measures()) == FPRS
    assert all(len(measure.heading) <= 16 for measure in measures())


def test_a_measure_of_another_package_needs_a_name_a_value_and_its_draws() -> None:
    class TprAtHalf(TprAtFpr):
        name: ClassVar[str] = "tpr_at_50_percent"
        heading: ClassVar[str] = "TPR at 50 % FPR"
        fpr: ClassVar[float] = 0.5
        chance: ClassVar[float] = 0.5

    class Youden(Measure):
        """The greatest distance of the curve above the diagonal."""

        name: ClassVar[str] = "youden"
        heading: ClassVar[str] = "Youden's J"
        chance: ClassVar[float] = 0.0

        def value(self, curve: Roc) -> float:
            return float((curve.tpr - curve.fpr).max())

        def draws(self, resampled: Resampled) -> Floats:
            tpr = resampled.hits[:, 1:] / resampled.n_members
            return (tpr - resampled.at_or_above / resampled.n_non_members).max(axis=1).clip(0.0)

    scores, member = sample_of(300, 400, tied=False)
    taken = bootstrap({"s": scores}, member, statistics([TprAtHalf(), Youden()]), draws=50)["s"]
    curve = exact_roc(scores, member)
    assert taken["tpr_at_50_percent"].mean() == pytest.approx(curve.tpr_at(0.5), abs=0.02)
    assert taken["youden"].mean() == pytest.approx(Youden().value(curve), abs=0.05)
