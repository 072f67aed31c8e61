"""The report of a run: one HTML file that opens from disk and asks nothing of the network, figures and tables beside it."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
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
from raymia.report.thumbnails import Identity, thumbnail, thumbnails
from raymia.run.columns import GENERATED
from raymia.run.files import DamagedRunError
from raymia.run.ledger import Ledger
from raymia.run.record import ScanRecord
from raymia.run.shown import Exhibit, exhibits_of
from raymia.spreadsheet import csv_text

log = logging.getLogger(__name__)

REPORT = "report"
REPORT_FILE = f"{REPORT}/index.html"
SHEET_SIZE = 12
EXHIBIT_PX = 256
EXHIBITS_SHOWN = 12
GENERATION = "generation"
"""The attack whose answers are shown beside the works."""
EXHIBITS_NOTE = (
    "Works whose captions brought forth images close to them, the closest of each beside it. A likeness may be chance, as "
    "where works are alike; FPR is the share of non-members whose own captions brought forth an image as close."
)


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


@dataclass(frozen=True)
class ShownExhibit:
    """An exhibit with its pictures, as data URLs of JPEGs; none where one cannot be read.

    Attributes:
        exhibit: the closest image of a work's caption.
        signal: whose highest scores are shown.
        score: the work's.
        member: its label.
        prompt: its caption, which the model was told.
        work, answer: pictures of the work and of the image.
        fpr: share of non-members that score at least as high; none where there are none.
    """

    exhibit: Exhibit
    signal: str
    score: float
    member: bool | None
    prompt: str
    work: str | None
    answer: str | None
    fpr: float | None


def shown_exhibits(ledger: Ledger, evaluation: Evaluation) -> list[ShownExhibit]:
    """The exhibits of a run with their pictures: the works read back from their shards, the answers from the run.

    They are of the first attack of the job that generates images from captions; none where the model was told other captions
    than the works', and of a run whose exhibits are damaged.
    """
    run, table = evaluation.run, evaluation.table
    job = run.job.model_dump() if isinstance(run, ScanRecord) else {}
    names = [name for name in job.get("attacks", {}) if name.partition(":")[0] == GENERATION]
    if run is None or not names or job.get("caption_source", "own") != "own" or f"{names[0]}.max" not in table:
        return []
    signal = f"{names[0]}.max"
    try:
        found = exhibits_of(ledger, names[0], EXHIBITS_SHOWN)
    except DamagedRunError as error:
        log.warning("exhibits are left out: %s", error)
        return []
    urls = {(shard.split, shard.name): shard.url for shard in run.shards}
    works = thumbnails(urls, [(one.split, one.shard, one.key) for one in found], EXHIBIT_PX)
    others = table[table["member"].eq(False)] if "member" in table else table[:0]
    rows = table.set_index(["split", "shard", "key"])
    shown = []
    for one in found:
        place = (one.split, one.shard, one.key)
        row = rows.loc[[place]].iloc[0]
        member = row.get("member")
        shown.append(
            ShownExhibit(
                exhibit=one,
                signal=signal,
                score=float(row[signal]),
                member=None if pd.isna(member) else bool(member),
                prompt=row["caption"],
                work=works.get(place),
                answer=None if one.image is None else thumbnail(one.image, EXHIBIT_PX),
                fpr=float(others[signal].ge(row[signal]).mean()) if len(others) else None,
            )
        )
    return shown


def write_report(ledger: Ledger, evaluation: Evaluation) -> str:
    """Write metrics.json, the page, its figures, tables and probabilities into a run directory; return where the page is."""
    figures = run_figures(evaluation)
    ledger.write_text("metrics.json", evaluation.metrics.model_dump_json(indent=2) + "\n")
    ledger.write_text(REPORT_FILE, render(evaluation, figures, shown_exhibits(ledger, evaluation)))
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


def render(evaluation: Evaluation, figures: Mapping[str, NamedFigure], exhibits: Sequence[ShownExhibit] = ()) -> str:
    """The report's HTML. All text from the data is escaped.

    Args:
        evaluation: of the run.
        figures: of `raymia.report.plots.run_figures`.
        exhibits: works beside the closest answers of a service.
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
        exhibits=exhibits,
        exhibits_note=EXHIBITS_NOTE,
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
