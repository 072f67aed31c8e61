"""Generated images as a control: held against the non-members, and no part of anything else."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.stats import mannwhitneyu, norm

from raymia.data.manifest import Manifest, Split
from raymia.errors import ConfigError
from raymia.evaluation.metrics import evaluate_run, evaluate_table
from raymia.evaluation.sources import evaluate_blind
from raymia.report.page import render
from raymia.run.columns import QUARANTINE_SCHEMA
from raymia.run.ledger import Ledger
from raymia.run.record import SignalRecord
from tests.evaluation.test_metrics import table_of
from tests.run.records import scan_record

ACCESS = {"loss": "grey", "random": "control"}


def with_generated(table: pd.DataFrame, shift: float, count: int = 500) -> pd.DataFrame:
    random = np.random.default_rng(8)
    rows = {"split": "made", "shard": "0", "key": np.arange(count).astype(str), "caption": "a cow", "member": None}
    scores = {"loss": random.normal(size=count) + shift, "random": random.normal(size=count)}
    made = pd.DataFrame({**rows, **scores}).assign(generated=True)
    return pd.concat([table.assign(generated=False, member=table["member"].astype(object)), made], ignore_index=True)


@pytest.mark.parametrize("shift", [0.0, 0.8, 2.0])
def test_their_auc_is_the_closed_forms_and_says_when_a_score_shows_no_memory(shift: float) -> None:
    table = with_generated(table_of(2000), shift)
    metrics = evaluate_table(table, access=ACCESS).metrics
    assert metrics.generated is not None
    assert metrics.generated.samples == 500
    assert list(metrics.generated.signals) == ["loss"]
    alarm = metrics.generated.signals["loss"]
    assert alarm.auc.low < norm.cdf(shift / np.sqrt(2)) < alarm.auc.high
    made, others = (table.loc[rows, "loss"] for rows in (table["generated"], table["member"].eq(False)))
    assert alarm.auc.value == pytest.approx(mannwhitneyu(made, others).statistic / len(made) / len(others))
    assert alarm.beyond == pytest.approx(norm.sf(norm.isf(0.01) - shift), abs=0.1)
    assert metrics.signals["loss"].auc is not None
    assert alarm.members_auc.value == pytest.approx(metrics.signals["loss"].auc.value)
    told = [warning for warning in metrics.warnings if "generated" in warning]
    assert len(told) == {0.0: 0, 0.8: 1, 2.0: 2}[shift]
    assert alarm.alarmed is (shift > 0)


def test_nothing_else_of_an_evaluation_depends_on_them() -> None:
    table = table_of(100)
    without, both = evaluate_table(table, access=ACCESS), evaluate_table(with_generated(table, 3.0), access=ACCESS)
    left_out = {"generated", "warnings", "counts"}
    assert both.metrics.model_dump(exclude=left_out) == without.metrics.model_dump(exclude=left_out)
    assert not [warning for warning in both.metrics.warnings if "unknown" in warning]
    made = both.table["generated"].to_numpy(bool)
    assert both.table.loc[made, "probability"].isna().all()
    assert both.table.loc[~made, "probability"].tolist() == without.table["probability"].tolist()


def test_a_member_that_a_model_made_is_refused() -> None:
    table = with_generated(table_of(20), 0.0)
    table.loc[3, "generated"] = True
    with pytest.raises(ConfigError, match="row 3: is a member and `generated`"):
        evaluate_table(table, access=ACCESS)


def test_the_manifest_of_a_run_says_which_they_are_and_the_page_shows_them(tmp_path: object) -> None:
    ledger = Ledger(str(tmp_path))
    signals = [SignalRecord(name="loss", attack="loss", access="grey", primary=True)]
    splits = tuple(
        Split(name=name, member=label, shards=(f"{name}.tar",))
        for name, label in (("in", True), ("out", False), ("made", "generated"), ("asked", "unknown"))
    )
    ledger.write_run(scan_record(manifest=Manifest(name="set", splits=splits), signals=signals))
    random = np.random.default_rng(0)
    for split in splits:
        rows = {"key": [f"k{i}" for i in range(40)], "split": split.name, "shard": "a", "unit": 0, "index": range(40)}
        scores = random.normal(size=40) + {"in": 1.0, "made": 4.0}.get(split.name, 0.0)
        table = pd.DataFrame(
            {**rows, "member": pd.Series([split.label] * 40, dtype="boolean"), "caption": "x", "flags": "", "loss": scores}
        )
        ledger.commit_unit(
            split.name, "a", 0, pa.Table.from_pandas(table, preserve_index=False), QUARANTINE_SCHEMA.empty_table()
        )
    evaluation = evaluate_run(ledger)
    assert evaluation.metrics.generated is not None
    assert evaluation.metrics.generated.samples == 40
    assert evaluation.metrics.signals["loss"].n_non_members == 40
    assert "40 samples have unknown membership and take no part in the curves." in evaluation.metrics.warnings
    page = render(evaluation, {})
    assert 'id="generated"' in page
    assert "<strong>generated</strong>" in page


def test_a_table_says_so_in_words(tmp_path: object) -> None:
    path = f"{tmp_path}/t.csv"
    captions = ["a cow", "a tree"] * 30
    rows = {"caption": captions, "member": ["true", "false", ""] * 20, "generated": ["", "", "yes"] * 20}
    pd.DataFrame(rows).to_csv(path, index=False)
    assert not [warning for warning in evaluate_blind(path).metrics.warnings if "unknown" in warning]
    pd.DataFrame({**rows, "generated": "perhaps"}).to_csv(path, index=False)
    with pytest.raises(ConfigError, match="`generated` is 'perhaps' in row 0"):
        evaluate_blind(path)
