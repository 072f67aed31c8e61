"""The table of signals: built once from the metrics, and shown on the terminal, on the page, in the CSV and in notebooks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from raymia.evaluation.intervals import Interval, shown
from raymia.evaluation.measures.base import Measure, measures

if TYPE_CHECKING:
    from raymia.evaluation.results import RunMetrics, SignalMetrics

Cell = str | bool | int | float | Interval | None
"""None where there is nothing to say."""
Kind = Literal["text", "count", "p-value", "interval", "difference"]


@dataclass(frozen=True)
class Column:
    """What is said of every signal.

    Attributes:
        name: in CSV files; an interval has two columns more, with ``_low`` and ``_high``.
        heading: on the page and the terminal.
        kind: how it is to be written; a difference is an interval that has a sign.
        value: of a signal by its name and metrics.
        page, terminal: whether it is shown there; the CSV has every column.
        note: a remark on the heading.
    """

    name: str
    heading: str
    kind: Kind
    value: Callable[[str, SignalMetrics], Cell]
    page: bool = False
    terminal: bool = False
    note: str = ""

    @property
    def sign(self) -> str:
        """How the column's numbers are to be formatted: with a sign, or without."""
        return "+" if self.kind == "difference" else ""

    def text(self, row: Row) -> str:
        """The row's cell in words: an interval as ``0.856 [0.832, 0.877]``, nothing as a dash."""
        cell = row.cells[self.name]
        if isinstance(cell, Interval):
            return shown(cell, self.sign)
        return "-" if cell is None else f"{cell:.1g}" if self.kind == "p-value" else str(cell)


@dataclass(frozen=True)
class Row:
    """One signal.

    Attributes:
        reason: why something is missing.
        cells: by name of the column.
    """

    signal: str
    access: str
    primary: bool
    reason: str | None
    cells: dict[str, Cell]


@dataclass(frozen=True)
class MetricTable:
    """Columns, and a row for every signal in the order of the metrics."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @property
    def on_page(self) -> list[Column]:
        """The columns of the page."""
        return [column for column in self.columns if column.page]

    @property
    def on_terminal(self) -> list[Column]:
        """The columns of the terminal, the signal's name first."""
        return [column for column in self.columns if column.terminal]

    @property
    def primary(self) -> list[Row]:
        """The rows of signals by which attacks are judged, of combinations and of blind baselines."""
        return [row for row in self.rows if row.primary]


def metric_table(metrics: RunMetrics) -> MetricTable:
    """Everything that is said of each signal, the measures by looping over all that are installed."""
    columns = _columns(controlled=metrics.control_model is not None)
    rows = tuple(
        Row(
            signal=name,
            access=signal.access,
            primary=signal.primary,
            reason=signal.reason,
            cells={column.name: column.value(name, signal) for column in columns},
        )
        for name, signal in metrics.signals.items()
    )
    return MetricTable(columns, rows)


def _columns(controlled: bool) -> tuple[Column, ...]:
    """All columns.

    Args:
        controlled: whether a control model was scanned.
    """
    return (
        Column("signal", "Signal", "text", lambda name, _: name, page=True, terminal=True),
        Column("attack", "Attack", "text", lambda _, signal: signal.attack),
        Column("access", "Access", "text", lambda _, signal: signal.access, page=True),
        Column("primary", "Primary", "text", lambda _, signal: signal.primary),
        Column("verdict", "Verdict", "text", lambda _, signal: signal.verdict, page=True, terminal=True),
        *map(_measure_column, measures()),
        Column(
            "excess_over_blind",
            "AUC over blind",
            "difference",
            lambda _, signal: signal.excess_over_blind,
            page=True,
            terminal=True,
            note="AUC minus that of the best blind baseline, paired",
        ),
        Column("control_auc", "AUC of control", "interval", lambda _, signal: signal.control_auc),
        Column(
            "excess_over_control",
            "AUC over control",
            "difference",
            lambda _, signal: signal.excess_over_control,
            page=controlled,
            note="AUC minus that of the control model, paired",
        ),
        Column("p_value", "p", "p-value", lambda _, signal: signal.p_value),
        Column("p_holm", "p (Holm)", "p-value", lambda _, signal: signal.p_holm, page=True),
        Column("n_members", "Members", "count", lambda _, signal: signal.n_members),
        Column("n_non_members", "Non-members", "count", lambda _, signal: signal.n_non_members),
    )


def _measure_column(measure: Measure) -> Column:
    return Column(
        measure.column,
        measure.heading,
        "interval",
        partial(_measured, measure.name),
        page=True,
        terminal=measure.terminal,
        note=measure.note,
    )


def _measured(measure: str, _: str, signal: SignalMetrics) -> Cell:
    return signal.measures.get(measure)
