"""Choices made beforehand, combinations, corrections and tests of whole sets, on tables with known answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from raymia.evaluation.combined import combined_scores
from raymia.evaluation.intervals import delong, holm
from raymia.evaluation.labelled import LabelledSamples
from raymia.evaluation.roc import exact_roc
from raymia.evaluation.transfer import halves, transfer
from raymia.run.record import SignalRecord


def labelled(table: pd.DataFrame, member: NDArray[np.bool_], access: dict[str, str]) -> LabelledSamples:
    signals = [SignalRecord(name=name, attack=name, access=own, primary=True) for name, own in access.items()]
    return LabelledSamples.of_table(table.assign(member=member), signals)


def test_a_cluster_stands_on_one_side_of_the_halves_and_a_part_keeps_its_scores() -> None:
    table = pd.DataFrame({"s": np.arange(200.0), "cluster": np.arange(200) // 4})
    member = np.arange(200) % 8 < 4
    choose, report = halves(labelled(table, member, {"s": "grey"}))
    assert choose.groups is not None
    assert report.groups is not None
    assert not set(choose.groups) & set(report.groups)
    assert sorted([*choose.columns["s"], *report.columns["s"]]) == table["s"].tolist()
    assert np.array_equal(choose.member, choose.columns["s"] % 8 < 4)


def test_delong_covers_the_closed_form_auc_of_two_normal_distributions() -> None:
    truth = float(norm.cdf(1 / np.sqrt(2)))
    covered = 0
    for seed in range(500):
        random = np.random.default_rng(seed)
        scores, member = np.r_[random.normal(1, 1, 80), random.normal(0, 1, 120)], np.arange(200) < 80
        found = delong(scores, member)
        assert found.value == pytest.approx(exact_roc(scores, member).auc, abs=1e-12)
        covered += found.low <= truth <= found.high
    assert 0.93 <= covered / 500 <= 0.97


def test_holm_multiplies_by_the_hypotheses_that_are_left() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({}) == {}


def test_the_signal_chosen_on_one_half_is_reported_on_the_other_with_the_fpr_it_has_there() -> None:
    choose = pd.DataFrame({"good": [5.0, 4, 3, 2, 1, 0], "poor": [0.0, 1, 2, 3, 4, 5], "noise": [5.0, 4, 3, 2, 1, 0]})
    member = np.array([True, True, True, False, False, False])
    report = pd.DataFrame({"good": [9.0, 2, 3, 4, 1, 0], "poor": [0.0] * 6, "noise": [5.0, 4, 3, 2, 1, 0]})
    access = {"good": "grey", "poor": "grey", "noise": "control"}
    found = transfer(labelled(choose, member, access), labelled(report, member, access))
    assert {row.signal for row in found} == {"good"}
    assert {row.access for row in found} == {"grey"}
    assert found[0].threshold == 3.0
    assert found[0].chosen_tpr == 1.0
    assert found[0].tpr.value == pytest.approx(2 / 3)
    assert found[0].fpr.value == pytest.approx(1 / 3)


def test_the_best_of_many_useless_signals_does_not_transfer() -> None:
    random = np.random.default_rng(3)
    member = np.arange(800) < 400
    table = pd.DataFrame({f"s{i}": random.normal(size=800) for i in range(100)})
    choose, report = halves(labelled(table, member, dict.fromkeys(table, "grey")))
    assert (choose.n_members, choose.n_non_members, report.n_members, report.n_non_members) == (200, 200, 200, 200)
    row = transfer(choose, report)[1]
    assert row.chosen_tpr > 0.025
    assert row.tpr.low <= 0.01


def test_a_combination_beats_its_parts_and_controls_take_no_part() -> None:
    random = np.random.default_rng(4)
    member = np.arange(1000) < 500
    columns = {f"s{i}": random.normal(size=1000) + 0.7 * member for i in range(3)} | {"control": member.astype(float)}
    table = pd.DataFrame(columns)
    access = {"s0": "black", "s1": "grey", "s2": "grey", "control": "control"}
    combined = combined_scores(labelled(table, member, access))
    assert set(combined) == {"combined.grey"}
    best = max(exact_roc(columns[f"s{i}"], member).auc for i in range(3))
    assert best + 0.05 < exact_roc(combined["combined.grey"], member).auc < 0.9
