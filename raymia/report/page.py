"""The report: one HTML file that opens from disk and asks nothing of the network."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from raymia.data.images import ImageError, decode_image
from raymia.data.tar import RawSample, read_shard
from raymia.evaluation.metrics import Evaluation
from raymia.report.plots import histogram_figure, roc_figure
from raymia.scan.ledger import Ledger

REPORT_FILE = "report/index.html"
SHEET_SIZE = 12
THUMBNAIL_PX = 128


@dataclass(frozen=True)
class SheetImage:
    """A sample on the sheet of extremes."""

    key: str
    split: str
    member: bool | None
    caption: str
    score: float
    source: str | None
    """Data URL of a JPEG; none where the shard cannot be read any more."""


def write_report(ledger: Ledger, evaluation: Evaluation) -> str:
    """Write the report into the run directory; return where it is."""
    ledger.write_text(REPORT_FILE, render(evaluation))
    return f"{ledger.run}/{REPORT_FILE}"


def render(evaluation: Evaluation) -> str:
    """The report's HTML. All text from the data is escaped."""
    metrics, table = evaluation.metrics, evaluation.table
    primary = [name for name, signal in metrics.signals.items() if signal.primary]
    curves = [name for name in primary if metrics.signals[name].auc is not None]
    ranked = [name for name in primary if metrics.signals[name].access not in ("control", "blind")]
    best = max(ranked, key=lambda name: _auc(evaluation, name), default=None)
    environment = Environment(loader=PackageLoader("raymia.report"), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("report.html").render(
        run=evaluation.run,
        metrics=metrics,
        primary=primary,
        roc=[roc_figure(table, curves, logarithmic) for logarithmic in (False, True)] if curves else [],
        histograms=[histogram_figure(table, name) for name in curves],
        best=best,
        sheets=sheets(evaluation, best) if best else [],
    )


def sheets(evaluation: Evaluation, signal: str) -> list[tuple[str, list[SheetImage]]]:
    """The samples with the highest and the lowest score of `signal`, with their images read back from the shards."""
    ordered = evaluation.table.sort_values([signal, "split", "shard", "key"], ascending=False)
    chosen = {"Highest scores": ordered.head(SHEET_SIZE), "Lowest scores": ordered.tail(SHEET_SIZE).iloc[::-1]}
    rows = pd.concat(chosen.values())
    urls = {(shard["split"], shard["name"]): shard["url"] for shard in evaluation.run["shards"]}  # type: ignore[attr-defined]
    sources: dict[tuple[str, str, int], str] = {}
    for (split, shard), group in rows.groupby(["split", "shard"]):
        wanted = {int(index) for index in group["index"]}
        for item in read_shard(urls[str(split), str(shard)], wanted.__contains__):
            if isinstance(item, RawSample) and item.image is not None:
                source = _thumbnail(item.image)
                if source is not None:
                    sources[str(split), str(shard), item.index] = source
    return [(title, [_sheet_image(row, signal, sources) for _, row in part.iterrows()]) for title, part in chosen.items()]


def _sheet_image(row: pd.Series, signal: str, sources: dict[tuple[str, str, int], str]) -> SheetImage:
    return SheetImage(
        key=row["key"],
        split=row["split"],
        member=None if pd.isna(row["member"]) else bool(row["member"]),
        caption=row["caption"],
        score=float(row[signal]),
        source=sources.get((row["split"], row["shard"], int(row["index"]))),
    )


def _thumbnail(content: bytes) -> str | None:
    try:
        pixels = decode_image(content, THUMBNAIL_PX, 10**9).pixels
    except ImageError:
        return None
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _auc(evaluation: Evaluation, name: str) -> float:
    auc = evaluation.metrics.signals[name].auc
    return auc.value if auc else 0.0
