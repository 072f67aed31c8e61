"""The table of signals: one, however it is shown."""

from __future__ import annotations

import io
from typing import ClassVar

import numpy as np
import pytest

from raymia.cli.console import Terminal
from raymia.cli.printing import print_metrics, side_by_side
from raymia.evaluation.bootstrap import Resampled
from raymia.evaluation.measures import base
from raymia.evaluation.measures.base import Measure, measures
from raymia.evaluation.metric_table import metric_table
from raymia.evaluation.metrics import evaluate_table
from raymia.evaluation.results import Evaluation
from raymia.evaluation.roc import Floats, Roc
from raymia.report.page import render
from raymia.report.tables import tables
from tests.evaluation.test_metrics import table_of

ACCESS = {"loss": "grey", "random": "control"}


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate_table(table_of(100), access=ACCESS)


def printed(evaluation: Evaluation, width: int) -> str:
    """What the terminal shows, of that many columns."""
    console = Terminal(file=io.StringIO(), width=width)
    print_metrics(console, evaluation.metrics)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 200])
def test_the_terminal_shows_every_interval_that_it_should_whatever_its_width(evaluation: Evaluation, width: int) -> None:
    shown = printed(evaluation, width)
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    for measure in measures():
        assert (measure.heading in shown.replace("\n", " ")) == measure.terminal
    partial = evaluation.metrics.signals["loss"].measures["partial_auc_1_percent"]
    assert partial is not None
    assert f"[{partial.low:.3f} {partial.high:.3f}]".replace("0.", ".") in shown
    assert "Signal" in shown
    assert shown.count("pAUC to 1 % FPR") == 1
    assert ("continued" in shown) == (width == 80)


def test_columns_go_into_as_few_blocks_as_fit() -> None:
    name, columns = ["n" * 10], [["c" * 8], ["d" * 8], ["e" * 30]]
    assert list(side_by_side(name, columns, 33)) == [[name, *columns[:2]], [name, columns[2]]]
    assert list(side_by_side(name, columns, 32)) == [[name, columns[0]], [name, columns[1]], [name, columns[2]]]
    assert list(side_by_side(name, columns, 100)) == [[name, *columns]]


def test_the_page_the_csv_and_the_notebook_show_every_measure(evaluation: Evaluation) -> None:
    page, frame, notebook = (
        render(evaluation, {}),
        tables(evaluation.metrics)["signals"].set_index("signal"),
        evaluation._repr_html_(),
    )
    for measure in measures():
        found = evaluation.metrics.signals["loss"].measures[measure.name]
        assert found is not None
        assert f">{measure.heading}</button>" in page
        assert f'data-value="{found.value}"' in page
        assert frame.loc["loss", measure.column] == found.value
        assert frame.loc["loss", f"{measure.column}_low"] == found.low
        assert frame.loc["loss", f"{measure.column}_high"] == found.high
        assert (measure.heading in notebook) == measure.terminal


def test_the_csv_keeps_the_names_of_its_columns(evaluation: Evaluation) -> None:
    intervals = ["auc", "excess_over_blind", "control_auc", "excess_over_control"]
    intervals += [f"tpr_at_fpr_{rate}" for rate in ("0.1", "0.01", "0.001")]
    plain = {"signal", "attack", "access", "primary", "p_value", "p_holm", "n_members", "n_non_members", "verdict"}
    named = plain | {f"{name}{end}" for name in intervals for end in ("", "_low", "_high")}
    assert named <= set(tables(evaluation.metrics)["signals"])


def test_what_cannot_be_measured_is_a_dash_and_an_empty_cell() -> None:
    evaluation = evaluate_table(table_of(20).assign(member=None), access=ACCESS)
    frame = tables(evaluation.metrics)["signals"].set_index("signal")
    assert frame.loc["loss"].isna()["auc_low"]
    assert frame.loc["loss", "n_members"] == 0
    assert "needs scored members and non-members" in render(evaluation, {})
    assert "loss" in printed(evaluation, 80)
    assert "pAUC to 1 % FPR" in printed(evaluation, 80)


def test_the_column_of_a_control_model_stands_on_the_page_only_where_there_is_one(evaluation: Evaluation) -> None:
    table = table_of(50)
    controlled = evaluate_table(table, access=ACCESS, control=("untrained", table))
    assert "excess_over_control" in {column.name for column in metric_table(controlled.metrics).on_page}
    assert "excess_over_control" not in {column.name for column in metric_table(evaluation.metrics).on_page}
    assert "AUC over control" in render(controlled, {})


def test_a_measure_that_is_added_stands_in_every_table(monkeypatch: pytest.MonkeyPatch) -> None:
    class Half(Measure):
        """Half the members are above this share of the others."""

        name: ClassVar[str] = "half"
        heading: ClassVar[str] = "FPR of the half"
        chance: ClassVar[float] = 0.5
        terminal: ClassVar[bool] = True

        def value(self, curve: Roc) -> float:
            return float(curve.fpr[np.searchsorted(curve.tpr, 0.5)])

        def draws(self, resampled: Resampled) -> Floats:
            return resampled.at_or_above[:, resampled.n_members // 2] / resampled.n_non_members

    everything = (*measures(), Half())
    for module in (base, "metric_table", "measuring"):
        name = module.__name__ if module is base else f"raymia.evaluation.{module}"  # type: ignore[union-attr]
        monkeypatch.setattr(f"{name}.measures", lambda: everything)
    evaluation = evaluate_table(table_of(100), access=ACCESS)
    assert evaluation.metrics.signals["loss"].measures["half"] is not None
    assert '"half":{"value":' in evaluation.metrics.model_dump_json()
    assert "FPR of the half" in printed(evaluation, 80)
    assert "FPR of the half</button>" in render(evaluation, {})
    assert "half_low" in tables(evaluation.metrics)["signals"]
