"""Data sets as tables on the terminal: what became of the images, twins, and what a set gives away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from raymia.cli.console import Terminal, plain_table
from raymia.cli.printing import interval_text

if TYPE_CHECKING:  # these need Ray or faiss, which printing does not
    from raymia.curation.attrition import Attrition
    from raymia.curation.dedup import DedupSummary
    from raymia.curation.match import MatchSummary


def print_findings(out: Terminal, findings: list[Any]) -> None:
    """Print what `raymia data verify` found."""
    table = Table(title="Findings")
    for heading in ("split", "shard", "", "finding"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        kind = "fault" if finding.fatal else "remark"
        table.add_row(finding.split, finding.shard, kind, finding.problem)
    out.print(table)


def print_attrition(out: Terminal, losses: Attrition, remarks: bool = True) -> None:
    """Print how far the images of each split got, why they were lost, and whether that was alike.

    Args:
        remarks: whether to print what was not attempted, and what was packed with remarks, too.
    """
    scored = any(split.scored is not None for split in losses.splits)
    table = plain_table("Images by stage", ("split",), ("attempted", "fetched", "decoded", *(("scored",) if scored else ())))
    for split in losses.splits:
        counts = [split.attempted, split.fetched, split.decoded, *((split.scored,) if scored else ())]
        table.add_row(split.split, *("-" if count is None else f"{count:,}" for count in counts))
    out.print(table)
    tested = {test.reason: test for test in losses.tests}
    reasons = dict.fromkeys(reason for split in losses.splits for reason in split.lost)
    if reasons:
        splits = [split.split for split in losses.splits]
        by_reason = plain_table("Lost, by reason", ("reason",), (*splits, "p (Holm)"))
        for reason in (*(("any",) if "any" in tested else ()), *reasons):
            lost = [sum(split.lost.values()) if reason == "any" else split.lost.get(reason, 0) for split in losses.splits]
            p_value = f"{tested[reason].p_holm:.2g}" if reason in tested else "-"
            by_reason.add_row(reason, *(f"{count:,}" for count in lost), p_value)
        out.print(by_reason)
    for part in losses.splits if remarks else []:
        told = {"not attempted": part.passed_over, "packed with remarks": part.flags}
        for what, words in told.items():
            if words:
                out.say(f"{part.split}, {what}: {', '.join(f'{word} {count:,}' for word, count in words.items())}")
    out.say(losses.statement)


def print_dedup(out: Terminal, summary: DedupSummary) -> None:
    """Print pairs by distance, and what became of them."""
    verified = summary.min_agreement is not None
    table = Table(title="Pairs by distance of their embeddings", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("distance")
    for heading in ("pairs", *(("pixels agree",) if verified else ())):
        table.add_column(heading, justify="right")
    for part in summary.bins:
        counts = [part.pairs, *((part.verified or 0,) if verified else ())]
        table.add_row(f"{part.low:g} to {part.high:g}", *(f"{count:,}" for count in counts))
    out.print(table)
    within = ", ".join(f"{count:,} within {split}" for split, count in summary.within.items())
    out.say(
        f"Twins: {within}, {summary.across:,} across splits; {summary.exact:,} files equal another.",
    )
    out.say(
        f"{summary.in_clusters:,} samples in {summary.clusters:,} clusters, the largest of {summary.largest:,}.",
    )
    dropped = ", ".join(f"{split} {count:,}" for split, count in summary.dropped.items()) or "none"
    out.say(f"Dropped, as non-members with a twin among members: {dropped}.")
    if summary.without_features:
        out.say(f"Left out, without features: {summary.without_features:,}.")


def print_matched(out: Terminal, summary: MatchSummary) -> None:
    """Print what a data set gave away before and after, and what that cost."""
    table = Table(title="Blind AUC (95 % interval), out of fold", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("baseline")
    for heading, state in (("before", summary.before), ("after", summary.after)):
        table.add_column(f"{heading}: {state.members:,} + {state.non_members:,}", no_wrap=True)
    for name, before in summary.before.auc.items():
        table.add_row(f"blind.{name}", interval_text(before), interval_text(summary.after.auc.get(name)))
    if summary.before.embedding_shift is not None:
        shifts = [state.embedding_shift for state in (summary.before, summary.after)]
        shown_shifts = [f"{shift.distance:.4f} ({shift.of_random_halves:.4f})" if shift else "-" for shift in shifts]
        table.add_row("Fréchet (random halves)", *shown_shifts)
    out.print(table)
    lost = ", ".join(f"{split} {count:,}" for split, count in summary.lost.items())
    out.say(f"Left out: {lost}, in {summary.rounds} rounds of {summary.method}.")
    if summary.without_features:
        out.say(f"Left out, without features: {summary.without_features:,}.")
    if not summary.met:
        aim = "none above .5 for certain" if summary.target_auc is None else f"none above {summary.target_auc:g}"
        out.say(f"Note: blind AUC is not what was asked for ({aim}); the splits still differ.")
