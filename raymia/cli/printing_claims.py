"""What works and a provider say, on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raymia.cli.console import Terminal, plain_table

if TYPE_CHECKING:
    from raymia.curation.claims import Claims, ClaimsSummary

SHOWN = 20
"""Works, and contradictions, that are shown; all of them are in the table that `--out` names."""
WIDEST = 40
RESERVED = ("yes", "no", "unknown")


def print_claims(out: Terminal, found: Claims) -> None:
    """Print what each work says, sums by year and reservation, the sides of the cut-off, and what contradicts."""
    summary, rows = found.summary, found.table.slice(0, SHOWN).to_pylist()
    title = "Works" if summary.works <= SHOWN else f"The first {SHOWN} of {summary.works:,} works"
    table = plain_table(title, ("work", "published", "made", "reserved", "by", *(("side",) if summary.sides else ())))
    for row in rows:
        cells = [row[name] or "-" for name in ("source", "published", "created", "reserved", "reserved_by")]
        cells += [row["side"]] if summary.sides else []
        table.add_row(*(text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…" for text in cells))
    out.print(table)
    years = plain_table("Rights reserved, by year of publication", ("year",), RESERVED)
    for year, counts in summary.by_year.items():
        years.add_row(year, *(f"{counts.get(word, 0):,}" for word in RESERVED))
    out.print(years)
    if summary.reserved_by:
        out.say(f"Said by: {_told(summary.reserved_by)}.")
    _print_credentials(out, summary)
    if summary.faults:
        out.say(f"Could not be read or understood: {_told(summary.faults)}.")
        _print_by_work(out, found, "faults")
    if summary.found is not None:
        out.say(
            f"Found in the list by address or digest: {summary.found:,} of {summary.works:,} works; in whatever way: "
            f"{summary.listed:,}."
        )
    _print_provider(out, summary)
    _print_contradictions(out, found)


def _print_credentials(out: Terminal, summary: ClaimsSummary) -> None:
    count = sum(summary.credentials.values())
    if count and not summary.credentials_can_be_read:
        out.say(
            f"Content Credentials (C2PA): {count:,} files carry them, and they were not read: install c2pa-python, such as by "
            "`pip install raymia[evidence]`."
        )
    elif count:
        out.say(f"Content Credentials (C2PA) of {count:,} files, by their signature: {_told(summary.credentials)}.")


def _print_provider(out: Terminal, summary: ClaimsSummary) -> None:
    if summary.model is None:
        return
    if summary.cut_off is None:
        out.say(f"The provider of {summary.model} names no cut-off: no work is a certain non-member by its date.")
        return
    sides = summary.sides
    out.say(f"Training data of {summary.model} up to {summary.cut_off}, as its provider says:")
    out.say(f"  {sides['non_member']:,} works first published after that are certain non-members, if both dates are true;")
    out.say(f"  {sides['suspect']:,} were published before that, or on that day: suspects;")
    out.say(f"  {sides['unclear']:,} have no date, one that may be either, or something that speaks against theirs.")
    late = summary.late
    if late is not None:
        lost = f"; not written: {_told(late.lost)}" if late.lost else ""
        out.say(f"Images of certain non-members written: {late.images:,} of {sides['non_member']:,}{lost}.")


def _print_contradictions(out: Terminal, found: Claims) -> None:
    for words in found.summary.of_provider:
        out.say(f"Contradiction of the provider: {words}.")
    if not found.summary.contradictions:
        return
    out.say(f"Contradictions: {_told(found.summary.contradictions)}.")
    _print_by_work(out, found, "contradictions")


def _print_by_work(out: Terminal, found: Claims, column: str) -> None:
    told = [(row["source"], words) for row in found.table.select(["source", column]).to_pylist() for words in row[column]]
    for source, words in told[:SHOWN]:
        out.say(f"  {source}: {words}")
    if len(told) > SHOWN:
        out.say(f"  and {len(told) - SHOWN:,} more")


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{word} {count:,}" for word, count in counts.items())
