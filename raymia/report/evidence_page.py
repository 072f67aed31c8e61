"""The page of an audit: what was asked, what was found, how sure that is, and what it does not show, for anybody to read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

import matplotlib as mpl
from matplotlib.figure import Figure

from raymia.data.findings import ClaimsFinding
from raymia.evaluation.evidence import CONTROL_SPLIT, GENERATED_SPLIT, WORKS_SPLIT, Evidence, Work
from raymia.evaluation.set_level import SIGNIFICANT, SetTest
from raymia.report.extraction_page import ExtractionExhibits
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


@dataclass(frozen=True)
class Registered:
    """What was said beforehand would be tested.

    Attributes:
        when: by this machine's clock.
        digest: sha256 of it.
        stamp: what a time-stamping authority says of that, in words; none where none was asked.
    """

    when: str
    digest: str
    stamp: str | None


def write_evidence_page(
    out: Storage, run: str, evidence: Evidence, registered: Registered, exhibits: ExtractionExhibits | None
) -> str:
    """Write the page; return where it is.

    Args:
        out: folder of the audit.
        run: of the scan.
        evidence: what was found.
        registered: what was said beforehand would be tested.
        exhibits: works and the images that their captions brought forth; none where the model was not asked.
    """
    record = Ledger(run).require_scan()
    urls = {(shard.split, shard.name): shard.url for shard in record.shards}
    chosen = evidence.works[:SHOWN]
    pictures = thumbnails(urls, [(WORKS_SPLIT, work.shard, work.key) for work in chosen])
    figures = {"size": NamedFigure(size_figure(evidence.audit.test), _of_sizes(evidence.audit.test))}
    page = render_page(
        "evidence.html",
        evidence=evidence,
        context=evidence.context,
        data_sets=_data_sets(evidence),
        claims=_claims(evidence),
        contradictions=_contradictions(evidence),
        test=evidence.audit.test,
        odds=odds(evidence.audit.test.p),
        significant=SIGNIFICANT,
        record=record,
        day=f"{datetime.fromisoformat(record.finished or record.started):%d %B %Y}",
        registered=registered,
        exhibits=exhibits,
        names=NAMES,
        works=[ShownWork(work, pictures.get((WORKS_SPLIT, work.shard, work.key))) for work in chosen],
        figures=figures,
        svg={name: inline_svg(name, named.figure) for name, named in figures.items()},
    )
    out.write(REPORT_FILE, page.encode())
    return f"{out.url}/{REPORT_FILE}"


def _data_sets(evidence: Evidence) -> str:
    """What the provider says that the model was trained on, in words; empty where nobody says."""
    provider = evidence.context.said.provider
    return "" if provider is None else " and ".join(one.name for one in provider.data_sets)


def _claims(evidence: Evidence) -> dict[str, ClaimsFinding]:
    """What works and control say of dates and rights; nothing where neither they nor a provider say anything."""
    said = evidence.context.said
    claims = {name: one for name, one in (("works", said.works), ("control images", said.control)) if one is not None}
    told = any(one.dated or one.reserved.get("yes") or one.contradictions_in_all for one in claims.values())
    return claims if told or said.provider is not None else {}


def _contradictions(evidence: Evidence) -> list[str]:
    """What contradicts, of the provider and of single works, and how many more there are."""
    said = evidence.context.said
    found = list(said.works.of_provider) if said.works is not None else []
    for one in (said.works, said.control):
        if one is None:
            continue
        found += [f"{each.work}: {each.says}" for each in one.contradicted]
        if more := one.contradictions_in_all - len(one.contradicted):
            found.append(f"and {more:,} more")
    return found


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
