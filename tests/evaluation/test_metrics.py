"""Evaluations of tables with known answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.stats import norm

import raymia
from raymia.errors import ConfigError
from raymia.evaluation.metrics import evaluate_run, evaluate_table
from raymia.evaluation.results import Evaluation, RunMetrics
from raymia.evaluation.signals import describe_signals
from raymia.run.columns import QUARANTINE_SCHEMA
from raymia.run.ledger import Ledger
from raymia.run.record import JobRecord, ReplicaRecord, SignalRecord, now_text
from tests.run.records import scan_record

WORDS = ["cow", "tree", "house", "red car", "green boat", "old clock", "blue door", "paper bird"]


def table_of(n: int = 400, seed: int = 0, shift: float = 1.0) -> pd.DataFrame:
    """As many members as not, whose `loss` is raised by `shift`; captions say nothing."""
    random = np.random.default_rng(seed)
    member = np.arange(2 * n) < n
    captions = [" ".join(random.choice(WORDS, 3)) for _ in member]
    scores = {"loss": random.normal(size=2 * n) + shift * member, "random": random.normal(size=2 * n)}
    facts = {"split": np.where(member, "in", "out"), "shard": "0", "key": np.arange(2 * n).astype(str)}
    return pd.DataFrame({**facts, "member": member, "caption": captions, **scores})


def test_two_normal_distributions_give_the_closed_form_and_evidence() -> None:
    evaluation = raymia.evaluate(table_of(2000), access={"loss": "grey", "random": "control"})
    loss = evaluation.metrics.signals["loss"]
    truth = float(norm.cdf(1 / np.sqrt(2)))
    assert loss.auc is not None
    assert loss.auc.low < truth < loss.auc.high
    assert loss.verdict == "evidence"
    assert evaluation.metrics.verdict.verdict == "evidence"
    assert loss.statement is not None
    assert loss.statement.startswith("loss: evidence. AUC 0.7")
    assert evaluation.metrics.signals["random"].verdict == "no signal"
    assert evaluation.metrics.signals["random"].access == "control"
    assert evaluation.metrics.label_shuffle is not None
    assert evaluation.metrics.label_shuffle.alarmed == []


def test_scores_that_are_a_function_of_the_caption_are_explained_by_the_data_set() -> None:
    table = table_of()
    table.loc[table.member & (np.arange(800) % 4 > 0), "caption"] += " on canvas"
    table["loss"] = table.caption.str.endswith("on canvas") + 1e-6 * np.random.default_rng(0).permutation(800)
    metrics = evaluate_table(table).metrics
    assert metrics.signals["loss"].auc is not None
    assert metrics.signals["loss"].auc.value > 0.8
    assert metrics.signals["loss"].verdict == "explained by the data set"
    assert metrics.verdict.verdict == "explained by the data set"
    assert metrics.best_blind == "blind.caption"


def test_a_score_that_knows_nothing_is_no_signal() -> None:
    assert evaluate_table(table_of(seed=1, shift=0.0)).metrics.verdict.verdict == "no signal"


def test_near_duplicates_of_one_cluster_never_stand_on_both_sides_of_a_fold() -> None:
    random = np.random.default_rng(1)
    pairs = pd.DataFrame({"member": random.random(300) < 0.5, "caption": [f"{random.integers(10**12)}" for _ in range(300)]})
    table = pd.concat([pairs.assign(cluster=np.arange(300))] * 3, ignore_index=True)
    leaking = evaluate_table(table.drop(columns="cluster"), []).metrics.signals["blind.caption"].auc
    grouped = evaluate_table(table, []).metrics.signals["blind.caption"].auc
    assert leaking is not None
    assert grouped is not None
    assert leaking.value > 0.9
    assert 0.4 < grouped.value < 0.6


def test_a_control_model_that_scores_alike_takes_the_evidence_away() -> None:
    table = table_of()
    both = table[["split", "shard", "key", "loss", "random"]].sample(frac=1.0, random_state=0)
    other = both.assign(loss=np.random.default_rng(3).normal(size=800))
    alike = evaluate_table(table, control=("untrained", both)).metrics
    unlike = evaluate_table(table, control=("untrained", other)).metrics
    assert alike.signals["loss"].verdict == "explained by the data set"
    assert alike.signals["loss"].excess_over_control is not None
    assert alike.signals["loss"].excess_over_control.value == 0.0
    assert unlike.signals["loss"].verdict == "evidence"
    assert unlike.signals["loss"].control_auc is not None
    assert 0.4 < unlike.signals["loss"].control_auc.value < 0.6
    partly = evaluate_table(table, control=("untrained", other.head(700))).metrics
    assert any("no scores for 100 samples" in warning for warning in partly.warnings)


def test_choices_made_on_another_run_are_reported_on_all_of_this_one() -> None:
    metrics = evaluate_table(table_of(2000, seed=1), calibrate_on=("other", table_of(2000, seed=2))).metrics
    assert metrics.calibrated_on == "other"
    row = next(row for row in metrics.transfer if row.target_fpr == 0.1)
    assert (row.n_members, row.n_non_members) == (2000, 2000)
    assert 0.08 < row.fpr.value < 0.12
    with pytest.raises(ConfigError, match="--calibrate-on other: it lacks loss"):
        evaluate_table(table_of(), calibrate_on=("other", table_of().drop(columns="loss")))
    with pytest.raises(ConfigError, match="needs scored members and non-members"):
        evaluate_table(table_of(), calibrate_on=("other", table_of().head(100)))


def test_samples_of_unknown_membership_get_a_probability_and_no_part_in_the_curves() -> None:
    table = table_of().astype({"member": object})
    table.loc[::10, "member"] = None
    evaluation = evaluate_table(table, prior=0.01)
    assert evaluation.metrics.signals["loss"].n_members == 360
    assert evaluation.table["probability"].notna().all()
    assert evaluation.table["probability"].mean() < 0.1
    assert any("80 samples have unknown membership" in warning for warning in evaluation.metrics.warnings)


def test_a_baseline_that_some_samples_lack_the_column_of_is_left_out_and_that_is_said() -> None:
    sizes = {"width": np.where(np.arange(800) < 3, np.nan, 64.0), "height": 64, "jpeg_bytes": np.arange(800)}
    metrics = evaluate_table(table_of().assign(**sizes)).metrics
    assert "blind.statistics" not in metrics.signals
    assert "blind.statistics is left out: width is empty for 3 samples." in metrics.warnings


def test_a_table_without_captions_is_evaluated_without_their_baseline() -> None:
    metrics = evaluate_table(table_of().drop(columns="caption")).metrics
    assert metrics.best_blind is None
    assert metrics.signals["loss"].verdict == "explained by the data set"


def test_the_fields_that_are_measures_are_read_from_them_and_come_back_from_json() -> None:
    metrics = evaluate_table(table_of(100)).metrics
    loss = metrics.signals["loss"]
    assert loss.auc is loss.measures["auc"]
    assert loss.tpr_at_fpr == {
        "0.1": loss.measures["tpr_at_10_percent"],
        "0.01": loss.measures["tpr_at_1_percent"],
        "0.001": loss.measures["tpr_at_0_1_percent"],
    }
    written = metrics.model_dump_json()
    assert RunMetrics.model_validate_json(written).model_dump_json() == written


def test_unknown_labels_alone_give_no_verdict() -> None:
    metrics = evaluate_table(table_of().assign(member=None)).metrics
    assert metrics.verdict.verdict is None
    assert metrics.signals["loss"].auc is None
    assert metrics.signals["loss"].reason == "needs scored members and non-members"


def test_columns_become_signals_and_are_white_unless_told_otherwise() -> None:
    table = pd.DataFrame({"member": [True], "loss": [1.0], "loss.t=5": [1.0], "mine": [2.0], "width": [3], "caption": ["x"]})
    found = {
        signal.name: (signal.access, signal.primary) for signal in describe_signals(table, {"loss": "grey", "loss.t=5": "grey"})
    }
    assert found == {"loss": ("grey", True), "loss.t=5": ("grey", False), "mine": ("white", True)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="member"), "no column member"),
        (lambda t: t.assign(member=np.arange(len(t))), "`member` has the values"),
        (lambda t: t.assign(loss=np.where(t.index == 3, np.nan, t.loss)), "loss is not a finite number in row 3"),
    ],
)
def test_tables_that_cannot_be_evaluated_are_refused_by_column_and_row(change: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate_table(change(table_of()))  # type: ignore[operator]


def test_a_notebook_shows_the_verdict_with_its_text_escaped() -> None:
    table = table_of().rename(columns={"loss": "<script>"})
    shown = raymia.evaluate(table)._repr_html_()
    assert "<strong>evidence</strong>" in shown
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown


def test_a_run_directory_is_evaluated_with_its_clusters_and_control_run(tmp_path: Path) -> None:
    table = table_of(100).assign(flags="", index=range(200), unit=0)
    signals = [SignalRecord(name=n, attack=n, access=a, primary=True) for n, a in (("loss", "grey"), ("random", "control"))]
    job = JobRecord(replica=ReplicaRecord(model="m"), caption_source="empty")
    run = scan_record(signals=signals, job=job, finished=now_text())
    for folder, scores in (("run", table), ("run/control", table.assign(loss=0.0))):
        ledger = Ledger(str(tmp_path / folder))
        ledger.write_run(run)
        for split, part in scores.groupby("split"):
            ledger.commit_unit(str(split), "0", 0, pa.Table.from_pandas(part), QUARANTINE_SCHEMA.empty_table())
    ledger = Ledger(str(tmp_path / "run"))
    ledger.write_clusters(pa.table({"split": ["in", "in"], "key": ["3", "4"], "cluster": ["twins", "twins"]}))
    evaluation: Evaluation = evaluate_run(ledger)
    assert evaluation.title == "set against m"
    assert evaluation.metrics.control_model == "m"
    assert (evaluation.table["cluster"] == "twins").sum() == 2
    assert any("empty captions" in warning for warning in evaluation.metrics.warnings)
    with pytest.raises(ConfigError, match=r"no run\.json"):
        evaluate_run(Ledger(str(tmp_path / "nowhere")))
