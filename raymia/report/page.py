"""The report of a run: one HTML file that opens from disk and asks nothing of the network, figures and tables beside it."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import Environment, PackageLoader, StrictUndefined

from raymia.documents import write_yaml
from raymia.evaluation.baselines.base import baselines
from raymia.evaluation.metric_table import metric_table
from raymia.evaluation.results import Evaluation
from raymia.evaluation.signals import UNTRIED
from raymia.report.figures import NamedFigure, inline_svg, write_figures
from raymia.report.plots import run_figures
from raymia.report.tables import tables
from raymia.report.thumbnails import Identity, thumbnails
from raymia.run.columns import GENERATED
from raymia.run.ledger import Ledger
from raymia.run.record import ScanRecord
from raymia.spreadsheet import csv_text

REPORT = "report"
REPORT_FILE = f"{REPORT}/index.html"
SHEET_SIZE = 12


@dataclass(frozen=True)
class SheetScore:
    """One score of a sample, and the share of non-members that score at least as high."""

    score: float
    fpr: float | None


@dataclass(frozen=True)
class SheetImage:
    """A sample on the sheet of extremes."""

    key: str
    member: bool | None
    generated: bool
    caption: str
    probability: float | None
    scores: dict[str, SheetScore]
    """By primary signal."""
    source: str | None
    """Data URL of a JPEG; none where the shard cannot be read any more."""


def write_report(ledger: Ledger, evaluation: Evaluation) -> str:
    """Write metrics.json, the page, its figures, tables and probabilities into a run directory; return where the page is."""
    figures = run_figures(evaluation)
    ledger.write_text("metrics.json", evaluation.metrics.model_dump_json(indent=2) + "\n")
    ledger.write_text(REPORT_FILE, render(evaluation, figures))
    write_figures(ledger, f"{REPORT}/figures", figures)
    for name, table in tables(evaluation.metrics).items():
        ledger.write_text(f"{REPORT}/tables/{name}.csv", csv_text(table))
    scores = evaluation.table
    if "probability" in scores:
        columns = [name for name in ("split", "shard", "key", "member", "probability") if name in scores]
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pandas(scores[columns], preserve_index=False), buffer)
        ledger.write_bytes(f"{REPORT}/probability.parquet", buffer.getvalue())
    return f"{ledger.run}/{REPORT_FILE}"


def render(evaluation: Evaluation, figures: Mapping[str, NamedFigure]) -> str:
    """The report's HTML. All text from the data is escaped.

    Args:
        figures: of `raymia.report.plots.run_figures`.
    """
    metrics, run = evaluation.metrics, evaluation.run
    table = metric_table(metrics)
    primary = [row.signal for row in table.primary]
    ranked = [name for name in primary if metrics.signals[name].access not in UNTRIED]
    best = ranked[0] if ranked and metrics.signals[ranked[0]].auc else None
    return render_page(
        "report.html",
        title=evaluation.title,
        run=run,
        job=write_yaml(run.job.model_dump(mode="json")) if isinstance(run, ScanRecord) else "",
        metrics=metrics,
        table=table,
        accesses=list(dict.fromkeys(row.access for row in table.rows)),
        statements=[statement for name in primary if (statement := metrics.signals[name].statement)],
        baselines=[baseline for baseline in baselines() if f"blind.{baseline.name}" in metrics.signals],
        figures=figures,
        svg={name: inline_svg(name.replace(".", "-"), named.figure) for name, named in figures.items()},
        best=best,
        sheets=list(sheets(evaluation, best)) if best and run else [],
    )


def render_page(template: str, **values: Any) -> str:
    """A page of this package's templates: everything inline, scripts allowed by their hash alone."""
    environment = Environment(loader=PackageLoader("raymia.report"), autoescape=True, undefined=StrictUndefined)
    folder = files("raymia.report") / "templates"
    script = (folder / "page.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    values |= {"script": script, "script_hash": f"sha256-{digest}", "style": (folder / "style.css").read_text()}
    return environment.get_template(template).render(version=version("raymia"), **values)


def sheets(evaluation: Evaluation, signal: str) -> Iterator[tuple[str, list[SheetImage]]]:
    """The samples with the highest and the lowest score of `signal`, with their images read back from the shards."""
    table = evaluation.table[evaluation.table[signal].notna()]
    ordered = table.sort_values([signal, "split", "shard", "key"], ascending=False)
    chosen = {"Highest scores": ordered.head(SHEET_SIZE), "Lowest scores": ordered.tail(SHEET_SIZE).iloc[::-1]}
    rows = pd.concat(chosen.values())
    shards = evaluation.run.shards if evaluation.run else []
    urls = {(shard.split, shard.name): shard.url for shard in shards}
    identities = [(str(split), str(shard), str(key)) for split, shard, key in rows[["split", "shard", "key"]].to_numpy()]
    sources = thumbnails(urls, identities)
    others = table[table["member"].eq(False)]
    primary = [name for name, described in evaluation.metrics.signals.items() if described.primary]
    alarms = {name: np.sort(others[name].to_numpy(float)) for name in primary}
    for title, part in chosen.items():
        yield title, [_sheet_image(row, alarms, sources) for _, row in part.iterrows()]


def _sheet_image(row: pd.Series, alarms: dict[str, np.ndarray], sources: dict[Identity, str]) -> SheetImage:
    scores = {}
    for name, others in alarms.items():
        if pd.notna(row[name]):
            as_high = len(others) - int(np.searchsorted(others, row[name], side="left"))
            scores[name] = SheetScore(float(row[name]), as_high / len(others) if len(others) else None)
    return SheetImage(
        key=row["key"],
        member=None if pd.isna(row["member"]) else bool(row["member"]),
        generated=bool(row.get(GENERATED, False)),
        caption=row["caption"],
        probability=float(row["probability"]) if "probability" in row and pd.notna(row["probability"]) else None,
        scores=scores,
        source=sources.get((row["split"], row["shard"], row["key"])),
    )
