from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from raymia.evaluation.blind import blind_scores
from raymia.evaluation.intervals import Interval, NoiseFloor, bootstrap, interval, noise_floor
from raymia.evaluation.roc import exact_roc
from raymia.evaluation.verdict import run_verdict, signal_verdict

RANDOM = np.random.default_rng(0)
MEMBER = np.r_[np.ones(300, bool), np.zeros(400, bool)]
FLOOR = NoiseFloor((0.46, 0.54), {})


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
    draws = bootstrap(scores, MEMBER, seed=5, draws=20)
    random = np.random.default_rng(5)
    for i in range(20):
        members, others = scores[MEMBER][random.integers(0, 300, 300)], scores[~MEMBER][random.integers(0, 400, 400)]
        assert draws.auc[i] == pytest.approx(roc_auc_score(MEMBER, np.r_[members, others]))


def test_intervals_cover_the_true_auc_about_as_often_as_they_say() -> None:
    covered = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        scores = np.r_[random.normal(1, 1, 100), random.normal(0, 1, 100)]
        member = np.arange(200) < 100
        found = interval(exact_roc(scores, member).auc, bootstrap(scores, member, seed, draws=300).auc)
        covered += found.low <= 0.7602 <= found.high
    assert covered >= 51


def test_noise_floor_at_a_thousand_a_class_is_the_known_band() -> None:
    floor = noise_floor(1000, 1000)
    assert floor.auc == pytest.approx((0.473, 0.526), abs=0.004)
    assert floor.tpr[0.01] == pytest.approx((0.004, 0.022), abs=0.003)


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


def test_a_control_that_finds_members_is_named_in_the_runs_verdict() -> None:
    word, statement = run_verdict({"loss": "evidence"}, {"autoencoder": "evidence"}, "blind.caption, AUC 0.510")
    assert word == "evidence"
    assert "control autoencoder" in statement


def test_blind_baselines_find_a_planted_shift_and_nothing_where_there_is_none() -> None:
    words = ["cow", "tree", "house", "red car", "green boat", "old clock"]
    frame = pd.DataFrame({"caption": [str(RANDOM.choice(words)) for _ in MEMBER], "width": RANDOM.integers(50, 90, 700)})
    frame["height"], frame["jpeg_bytes"] = RANDOM.integers(50, 90, 700), RANDOM.integers(2000, 5000, 700)
    frame = frame.assign(entropy=RANDOM.random(700), colourfulness=RANDOM.random(700), edge_density=RANDOM.random(700))
    fair = {name: exact_roc(scores, MEMBER).auc for name, scores in blind_scores(frame, MEMBER).items()}
    frame.loc[MEMBER, "caption"] = frame.loc[MEMBER, "caption"].str.upper()
    frame.loc[MEMBER, "width"] += 30
    shifted = {name: exact_roc(scores, MEMBER).auc for name, scores in blind_scores(frame, MEMBER).items()}
    assert all(0.4 < value < 0.6 for value in fair.values())
    assert shifted["caption"] > 0.99
    assert shifted["statistics"] > 0.9
