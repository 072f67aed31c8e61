"""The report's tables as CSV files."""

from __future__ import annotations

import pandas as pd

from raymia.evaluation.intervals import Interval
from raymia.evaluation.metric_table import MetricTable, metric_table
from raymia.evaluation.results import RunMetrics


def tables(metrics: RunMetrics) -> dict[str, pd.DataFrame]:
    """Signals, what was chosen beforehand, and the quarantine; by file name."""
    reasons = {**metrics.counts.by_reason, **metrics.counts.flagged}
    return {
        "signals": signal_frame(metric_table(metrics)),
        "beforehand": pd.json_normalize([row.model_dump() for row in metrics.transfer], sep="_"),
        "quarantine": pd.DataFrame({"reason": list(reasons), "samples": list(reasons.values())}),
    }


def signal_frame(table: MetricTable) -> pd.DataFrame:
    """A row per signal; an interval is three columns: NAME, NAME_low and NAME_high."""
    lines = []
    for row in table.rows:
        line: dict[str, object] = {}
        for column in table.columns:
            cell = row.cells[column.name]
            line[column.name] = cell.value if isinstance(cell, Interval) else cell
            if column.kind in ("interval", "difference"):
                low, high = (cell.low, cell.high) if isinstance(cell, Interval) else (None, None)
                line |= {f"{column.name}_low": low, f"{column.name}_high": high}
        lines.append(line)
    return pd.DataFrame(lines)
