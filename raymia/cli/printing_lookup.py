"""What was found of works in a training list, on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raymia.cli.console import Terminal, plain_table
from raymia.curation.ways import SURE

if TYPE_CHECKING:  # these need faiss, which printing does not
    from raymia.curation.lookup import Lookup, LookupSummary

SHOWN = 10
"""Matches that are shown; all of them are in the table that `--out` names."""
WIDEST = 60
"""Characters of a name or a caption in a table."""
ALIKE_URLS = ("url without query", "host and path")
"""Ways that go by the same column as another."""
HIT = (
    "A row that names a work shows that the list names it. Whether a model that says it was trained on the list downloaded the "
    "image then is likely, but another question."
)
NO_HIT = (
    "That no row names a work shows little: images are copied to other addresses and saved anew, what a list has as a copy is "
    "found by no URL and no digest, and a model may have been trained on more than the list."
)
ALIKE = (
    "What is alike but for query, scheme, port, some bits or an angle may be another image: look at these rows, and hold them "
    "against --control."
)


def print_lookup(out: Terminal, found: Lookup) -> None:
    """Print what was used, what was found in which way, what could not be looked for, and what that shows."""
    summary = found.summary
    for line in _lists(summary):
        out.say(line)
    empty = [table.table for table in summary.tables if not table.rows]
    if empty:
        out.say(f"No rows: {len(empty):,} of {len(summary.tables):,} tables, such as {empty[0]}.")
    _print_ways(out, summary)
    _print_matches(out, found)
    _print_not_looked_for(out, summary)
    if summary.controls_left_out:
        out.say(f"Left out of the control: {summary.controls_left_out:,} that are works too.")
    if summary.left_out:
        out.say(f"Counted and not written: {summary.left_out:,} matches beyond the first thousand of a work and a way.")
    if summary.clip is not None:
        out.say(f"Embeddings of the works are by {summary.clip}: they compare with the list's if these are by the same model.")
    controls = f"; {summary.controls_found:,} of {summary.controls:,} controls" if summary.controls else ""
    out.say(f"Found: {summary.found:,} of {summary.works:,} works, in whatever way{controls}.")
    if any(way.found for way in summary.ways if way.way not in SURE):
        out.say(ALIKE)
    if summary.found:
        out.say(HIT)
    if not summary.rows:
        out.say("The lists have no rows, so that nothing was looked through.")
    elif summary.found < summary.works:
        out.say(NO_HIT)


def _print_not_looked_for(out: Terminal, summary: LookupSummary) -> None:
    nowhere = [means for means, reasons in summary.not_looked_for.items() if "not_in_lists" in reasons]
    if nowhere:
        out.say(f"Not looked for by {', '.join(nowhere)}: the lists have no such column.")
    unusable = [way.way for way in summary.ways if summary.rows and not way.rows_compared and way.way not in ALIKE_URLS]
    if unusable:
        out.say(f"No row of the lists has what can be taken for {', '.join(unusable)}: are these the right columns?")
    for means, reasons in summary.not_looked_for.items():
        if means in nowhere:
            continue
        told = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())
        out.say(f"Not looked for by {means}: {sum(reasons.values()):,} of {summary.works:,} works ({told}).")


def _lists(summary: LookupSummary) -> list[str]:
    """Which columns of the tables were used and which were not, in a line for tables that are alike."""
    alike: dict[str, list[str]] = {}
    for table in summary.tables:
        used = ", ".join(f"{name} ({role})" if name != role else name for role, name in table.columns.items())
        beside = f"; embeddings beside it: {table.embeddings}" if table.embeddings is not None else ""
        unused = ", ".join(f"{name} ({why})" if why else name for name, why in table.unused.items())
        line = f"columns used: {used}{beside}{f'; not used: {unused}' if unused else ''}"
        alike.setdefault(line, []).append(table.table)
    named = {
        line: tables[0] if len(tables) == 1 else f"{len(tables):,} tables such as {tables[0]}" for line, tables in alike.items()
    }
    return [f"{name}: {line}" for line, name in named.items()]


def _print_ways(out: Terminal, summary: LookupSummary) -> None:
    controls, chance = summary.controls > 0, any(way.expected_by_chance is not None for way in summary.ways)
    headings = ["rows", "works", "found", "matches"]
    headings += ["by chance"] * chance + ["controls", "found wrongly"] * controls
    table = plain_table(f"Works in {summary.rows:,} rows", ("way",), headings)
    for way in summary.ways:
        counts = [f"{count:,}" for count in (way.rows_compared, way.looked_for, way.found, way.rows)]
        if chance:
            counts.append("" if way.expected_by_chance is None else f"{way.expected_by_chance:.2g}")
        if controls:
            counts += [f"{way.controls_looked_for:,}", f"{way.controls_found:,}"]
        table.add_row(way.way, *counts)
    out.print(table)


def _print_matches(out: Terminal, found: Lookup) -> None:
    rows = found.matches.slice(0, SHOWN).to_pylist()
    if not rows:
        return
    total = sum(way.rows for way in found.summary.ways)
    title = "Matches" if total <= len(rows) else f"The first {len(rows)} matches"
    table = plain_table(title, ("work", "way", "table", "caption"), ("row", "distance"))
    for row in rows:
        distance = "" if row["distance"] is None else f"{row['distance']:.3g}"
        name = f"{row['source']} (control)" if row["control"] else row["source"]
        table.add_row(_short(name), row["way"], _short(row["table"]), _short(row["caption"] or ""), f"{row['row']:,}", distance)
    out.print(table)


def _short(text: str) -> str:
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"
