"""The page of an audit: what was asked, what was found, how sure that is, and what it does not show, for anybody to read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

import matplotlib as mpl
from matplotlib.figure import Figure

from raymia.evaluation.evidence import CONTROL_SPLIT, GENERATED_SPLIT, WORKS_SPLIT, Evidence, Work
from raymia.evaluation.set_level import SIGNIFICANT, SetTest
from raymia.report.figures import COLOURS, FAINT, STYLE, NamedFigure, inline_svg, new_figure
from raymia.report.page import REPORT_FILE, render_page
from raymia.report.thumbnails import thumbnails
from raymia.run.ledger import Ledger
from raymia.run.storage import Storage

SMALLEST = 1e-6
"""Chance below which none is told from another."""
SHOWN = 200
"""Works with their pictures on the page; all of them are in evidence.json."""
NAMES = {WORKS_SPLIT: "works", CONTROL_SPLIT: "control images", GENERATED_SPLIT: "generated images"}


@dataclass(frozen=True)
class ShownWork:
    """A work with its picture, as a data URL; none where its shard cannot be read any more."""

    work: Work
    picture: str | None


def write_evidence_page(out: Storage, run: str, evidence: Evidence, registered: str, digest: str) -> str:
    """Write the page; return where it is.

    Args:
        out: folder of the audit.
        run: of the scan.
        evidence: what was found.
        registered: when it was said what would be tested.
        digest: of that.
    """
    record = Ledger(run).require_scan()
    urls = {(shard.split, shard.name): shard.url for shard in record.shards}
    chosen = evidence.works[:SHOWN]
    pictures = thumbnails(urls, [(WORKS_SPLIT, work.shard, work.key) for work in chosen])
    figures = {"size": NamedFigure(size_figure(evidence.audit.test), _of_sizes(evidence.audit.test))}
    page = render_page(
        "evidence.html",
        evidence=evidence,
        test=evidence.audit.test,
        odds=odds(evidence.audit.test.p),
        significant=SIGNIFICANT,
        record=record,
        day=f"{datetime.fromisoformat(record.finished or record.started):%d %B %Y}",
        registered=registered,
        digest=digest,
        names=NAMES,
        works=[ShownWork(work, pictures.get((WORKS_SPLIT, work.shard, work.key))) for work in chosen],
        figures=figures,
        svg={name: inline_svg(name, named.figure) for name, named in figures.items()},
    )
    out.write(REPORT_FILE, page.encode())
    return f"{out.url}/{REPORT_FILE}"


def odds(p: float) -> str:
    """A probability as one in so many, rounded so that it is no smaller than it was."""
    if p >= SIGNIFICANT:
        return f"{math.ceil(p * 100)} in 100"
    if p < SMALLEST:  # so far out nobody knows how scores are spread
        return f"fewer than 1 in {round(1 / SMALLEST):,}"
    exact = 1.0 / p
    step = 10 ** max(0, math.floor(math.log10(exact)) - 1)
    return f"about 1 in {math.floor(exact / step) * step:,}"


def size_figure(test: SetTest) -> Figure:
    """p against the number of works, on random subsets."""
    with mpl.rc_context(STYLE):
        figure = new_figure(5.4, 3.2)
        axes = figure.subplots()
        sizes = [point.n for point in test.by_size]
        axes.plot(sizes, [max(point.median_p, 1e-12) for point in test.by_size], "o-", color=COLOURS[0])
        axes.axhline(SIGNIFICANT, color=FAINT, linestyle="--", linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel="works, and as many control images", ylabel="chance result (median p)")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")
    return figure


def _of_sizes(test: SetTest) -> str:
    points = ", ".join(f"{point.median_p:.2g} with {point.n}" for point in test.by_size)
    return f"Median p on random subsets: {points}."
