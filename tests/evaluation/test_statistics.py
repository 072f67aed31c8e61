from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu, norm
from sklearn.metrics import roc_auc_score
from torchmetrics.functional.classification import binary_roc

from raymia.evaluation.bootstrap import bootstrap, resamples
from raymia.evaluation.intervals import Interval, NoiseFloor, interval, noise_floor
from raymia.evaluation.measures.auc import Auc
from raymia.evaluation.measures.base import statistics
from raymia.evaluation.measures.tpr_at_10_percent import TprAtTenPercent
from raymia.evaluation.results import GRID
from raymia.evaluation.roc import FPRS, exact_roc
from raymia.evaluation.verdict import run_verdict, signal_verdict

RANDOM = np.random.default_rng(0)
MEMBER = np.r_[np.ones(300, bool), np.zeros(400, bool)]
FLOOR = NoiseFloor(auc=(0.46, 0.54), tpr_at_fpr={})
AUC = statistics([Auc()])


def test_tpr_is_never_read_at_a_point_above_the_target_fpr() -> None:
    scores = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    curve = exact_roc(scores, np.array([True, False, True, True, False, False]))
    assert curve.tpr_at(0.1) == pytest.approx(1 / 3)
    assert curve.tpr_at(0.34) == pytest.approx(1.0)


def test_ties_count_half() -> None:
    assert exact_roc(np.zeros(10), np.arange(10) < 5).auc == 0.5


def test_one_class_alone_has_no_curve() -> None:
    with pytest.raises(ValueError, match="members and non-members"):
        exact_roc(np.zeros(3), np.ones(3, bool))


def test_bootstrap_of_every_draw_agrees_with_sklearn_on_the_same_resample() -> None:
    scores = RANDOM.integers(0, 20, 700).astype(float) + MEMBER
    taken = AUC | {"tpr": lambda resampled: resampled.tpr_at(FPRS), "curve": lambda resampled: resampled.tpr_at(GRID)}
    draws = bootstrap({"s": scores}, MEMBER, taken, seed=5, draws=20)["s"]
    parts = list(resamples(300, 400, seed=5, draws=20))
    assert len(parts) == 1
    for i, (members, others) in enumerate(zip(*parts[0], strict=True)):
        drawn = np.r_[np.repeat(scores[MEMBER], members), np.repeat(scores[~MEMBER], others)]
        curve = exact_roc(drawn, MEMBER)
        assert draws["auc"][i] == pytest.approx(roc_auc_score(MEMBER, drawn), abs=1e-12)
        assert draws["tpr"][i] == pytest.approx([curve.tpr_at(rate) for rate in FPRS], abs=1e-12)
        assert draws["curve"][i] == pytest.approx([curve.tpr_at(rate) for rate in GRID], abs=1e-12)


def test_resamples_draw_as_many_as_there_are_and_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    members, others = next(resamples(300, 400, seed=1, draws=50))
    assert (members.sum(1) == 300).all()
    assert (others.sum(1) == 400).all()
    scores = RANDOM.normal(size=700)
    monkeypatch.setattr("raymia.evaluation.bootstrap.CHUNK", 7000)
    assert [len(part) for part, _ in resamples(300, 400, seed=1, draws=50)] == [10] * 5
    assert bootstrap({"s": scores}, MEMBER, AUC, draws=50)["s"]["auc"].shape == (50,)


def test_two_columns_are_resampled_in_pairs() -> None:
    scores = RANDOM.normal(size=700) + MEMBER
    draws = bootstrap({"one": scores, "same": scores + 5.0, "reversed": -scores}, MEMBER, AUC, draws=100)
    assert np.array_equal(draws["one"]["auc"], draws["same"]["auc"])
    assert draws["one"]["auc"] + draws["reversed"]["auc"] == pytest.approx(1.0, abs=1e-12)


def test_bootstrap_intervals_cover_the_true_auc_and_tpr_as_often_as_they_say() -> None:
    auc, tpr = float(norm.cdf(1 / np.sqrt(2))), float(norm.sf(norm.isf(0.1) - 1))
    covered, both = {"auc": 0, "tpr": 0}, statistics([Auc(), TprAtTenPercent()])
    member = np.arange(800) < 400
    for seed in range(500):
        random = np.random.default_rng(seed)
        scores = np.r_[random.normal(1, 1, 400), random.normal(0, 1, 400)]
        draws, curve = bootstrap({"s": scores}, member, both, seed, draws=500)["s"], exact_roc(scores, member)
        found = interval(curve.auc, draws["auc"])
        covered["auc"] += found.low <= auc <= found.high
        found = interval(curve.tpr_at(0.1), draws["tpr_at_10_percent"])
        covered["tpr"] += found.low <= tpr <= found.high
    assert 0.93 <= covered["auc"] / 500 <= 0.97
    assert 0.93 <= covered["tpr"] / 500 <= 0.97


@pytest.mark.parametrize("tied", [False, True])
def test_auc_and_roc_agree_with_torchmetrics_and_scipy(tied: bool) -> None:
    scores = (RANDOM.integers(0, 30, 700) + MEMBER) / 64 if tied else RANDOM.normal(size=700) + MEMBER
    curve = exact_roc(scores, MEMBER)
    labels, values = torch.tensor(MEMBER.astype(int)), torch.tensor(scores)
    # torchmetrics takes scores outside 0..1 for logits; a shift and a power of two keep order and ties. Its rates are
    # float32; the counts behind them are exact.
    fpr, tpr, _ = binary_roc((values - values.min()) / 16, labels, thresholds=None)
    alarms, hits = (fpr.double().numpy() * 400).round(), (tpr.double().numpy() * 300).round()
    assert curve.fpr == pytest.approx(alarms / 400, abs=1e-9)
    assert curve.tpr == pytest.approx(hits / 300, abs=1e-9)
    wins = mannwhitneyu(scores[MEMBER], scores[~MEMBER]).statistic
    assert curve.auc == pytest.approx(wins / (300 * 400), abs=1e-9)
    assert curve.auc == pytest.approx(roc_auc_score(MEMBER, scores), abs=1e-9)
    assert curve.auc == pytest.approx(float(np.trapezoid(hits / 300, alarms / 400)), abs=1e-9)


def test_noise_floor_is_where_random_rankings_land() -> None:
    floor = noise_floor(1000, 1000)
    assert floor.auc == pytest.approx((0.473, 0.526), abs=0.002)
    assert floor.tpr_at_fpr["0.01"] == pytest.approx((0.004, 0.022), abs=0.002)
    random, member = np.random.default_rng(0), np.arange(300) < 100
    curves = [exact_roc(random.normal(size=300), member) for _ in range(2000)]
    floor = noise_floor(100, 200)
    assert np.quantile([curve.auc for curve in curves], (0.025, 0.975)) == pytest.approx(floor.auc, abs=0.01)
    for rate, band in floor.tpr_at_fpr.items():
        assert np.quantile([curve.tpr_at(float(rate)) for curve in curves], (0.025, 0.975)) == pytest.approx(band, abs=0.021)


@pytest.mark.parametrize(
    ("auc", "excess", "verdict"),
    [
        ((0.80, 0.75, 0.85), (0.20, 0.10, 0.30), "evidence"),
        ((0.80, 0.75, 0.85), (0.02, -0.05, 0.09), "explained by the data set"),
        ((0.53, 0.49, 0.57), (0.03, 0.01, 0.05), "no signal"),
        ((0.20, 0.15, 0.25), (-0.3, -0.4, -0.2), "no signal"),
    ],
)
def test_verdicts(auc: tuple[float, ...], excess: tuple[float, ...], verdict: str) -> None:
    def make(v: tuple[float, ...]) -> Interval:
        return Interval(value=v[0], low=v[1], high=v[2])

    assert signal_verdict(make(auc), make(excess), FLOOR) == verdict


def test_what_a_control_model_tells_apart_too_is_no_evidence() -> None:
    auc, excess = Interval(value=0.8, low=0.75, high=0.85), Interval(value=0.2, low=0.1, high=0.3)
    same = Interval(value=0.01, low=-0.05, high=0.06)
    assert signal_verdict(auc, excess, FLOOR, over_control=same) == "explained by the data set"
    assert signal_verdict(auc, excess, FLOOR, over_control=excess) == "evidence"


def test_a_control_that_finds_members_is_named_in_the_runs_verdict() -> None:
    word, statement = run_verdict({"loss": "evidence"}, {"autoencoder": "evidence"}, "blind.caption, AUC 0.510")
    assert word == "evidence"
    assert "control autoencoder" in statement
