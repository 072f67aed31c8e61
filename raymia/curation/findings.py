"""What a lookup and the claims of works come to, as the small records that a report shows."""

from __future__ import annotations

from rich.console import Console

from raymia.curation.claims import Claims, claims
from raymia.curation.inputs import manifest_at
from raymia.curation.lookup import Lookup
from raymia.curation.perceptual import BITS
from raymia.curation.ways import SURE, WAYS
from raymia.curation.works import Works
from raymia.data.dates import parse_date
from raymia.data.findings import ClaimsFinding, Contradiction, Hit, LookupFinding, WayFound
from raymia.data.provider import ProviderClaims

SHOWN = 50
"""Hits, works and contradictions that a record holds; all are counted."""
MAX_TEXT = 500
"""Characters of a name, an address or a caption; the rest is left out."""


def provider_of(source: str) -> ProviderClaims | None:
    """What a manifest has of what the model's provider says; none of a source that is no manifest, or has nothing of it.

    Raises:
        ConfigError: the manifest cannot be read.
    """
    found = manifest_at(source)
    return None if found is None else found[0].claims


def claims_of_works(
    works: Works, console: Console, provider: ProviderClaims | None = None, found: str | None = None
) -> ClaimsFinding:
    """What works say, in short.

    Args:
        works: such as those of a split of an audit's sets, ``MANIFEST#SPLIT``.
        console: where progress is shown.
        provider: see `raymia.curation.claims.claims`.
        found: table of matches that a lookup of these works wrote.

    Raises:
        ConfigError: the works or the table cannot be used.
    """
    return claims_finding(claims(works, console, provider, found))


def lookup_finding(found: Lookup, shown: int = SHOWN) -> LookupFinding:
    """A lookup in short, with its surest hits."""
    summary = found.summary
    matches = found.matches.to_pylist()
    rows = [row for row in matches if not row["control"]]
    rows.sort(key=lambda row: (row["way"] not in SURE, WAYS.index(row["way"])))
    firsts: dict[tuple[str, str], int] = {}
    # Of every work one hit before any work has two.
    turns = []
    for row in rows:
        work = row["work"], row["source"]
        firsts[work] = firsts.get(work, 0) + 1
        turns.append(firsts[work])
    order = sorted(range(len(rows)), key=lambda number: (turns[number], number))
    return LookupFinding(
        tables=len(summary.tables),
        rows=summary.rows,
        works=summary.works,
        found=summary.found,
        found_for_sure=len({(row["work"], row["source"]) for row in rows if row["way"] in SURE}),
        controls=summary.controls,
        controls_found=summary.controls_found,
        controls_for_sure=len({(row["work"], row["source"]) for row in matches if row["control"] and row["way"] in SURE}),
        ways=tuple(
            WayFound(
                way=way.way,
                sure=way.way in SURE,
                looked_for=way.looked_for,
                works=way.found,
                rows=way.rows,
                controls_looked_for=way.controls_looked_for,
                controls=way.controls_found,
                by_chance=way.expected_by_chance,
            )
            for way in summary.ways
        ),
        not_looked_for=summary.not_looked_for,
        hits=tuple(
            Hit(
                work=_cut(row["source"]) or "",
                way=row["way"],
                table=row["table"],
                row=row["row"],
                url=_cut(row["url"]),
                caption=_cut(row["caption"]),
                similarity=_similarity(row["way"], row["distance"]),
            )
            for row in (rows[number] for number in order[:shown])
        ),
        hits_in_all=sum(way.rows for way in summary.ways),
    )


def claims_finding(found: Claims, shown: int = SHOWN) -> ClaimsFinding:
    """The claims of works in short."""
    summary, rows = found.summary, found.table.to_pylist()
    dates = [days for row in rows if row["published"] is not None and (days := parse_date(row["published"])) is not None]
    contradicted = [(row["source"], words) for row in rows for words in row["contradictions"]]
    return ClaimsFinding(
        works=summary.works,
        dated=len(dates),
        earliest=str(min(dates)) if dates else None,
        latest=str(max(dates, key=lambda days: (days.last, days.first))) if dates else None,
        reserved=summary.reserved,
        model=summary.model,
        cut_off=summary.cut_off,
        sides=summary.sides,
        non_members=tuple(_cut(row["source"]) or "" for row in rows if row["side"] == "non_member")[:shown],
        contradictions=summary.contradictions,
        contradicted=tuple(Contradiction(work=_cut(work) or "", says=words) for work, words in contradicted[:shown]),
        contradictions_in_all=len(contradicted),
        of_provider=tuple(summary.of_provider),
        faults=summary.faults,
        credentials=summary.credentials,
    )


def _similarity(way: str, distance: float | None) -> float | None:
    if distance is None:
        return None
    return 1.0 - (distance / BITS if way == "phash" else distance)


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
