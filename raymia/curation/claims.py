"""What works say of themselves, when each was published and whether rights were reserved, held against what a provider says.

Who published a work after the last day of a model's training data has a certain non-member: the best control there is.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
from pydantic import BaseModel
from rich.console import Console
from rich.progress import Progress, TextColumn

from raymia.curation.claimed import NON_MEMBER, SIDES, TEXTS, UNKNOWN, ClaimRow, claims_of, settle
from raymia.curation.credentials import can_read
from raymia.curation.inputs import manifest_at
from raymia.curation.late import Late, empty_folder, write_late
from raymia.curation.output import output_table
from raymia.curation.works import Works
from raymia.data.provider import ProviderClaims, contradictions_of
from raymia.data.tables import read_table
from raymia.errors import ConfigError
from raymia.urls import public

TEXT_COLUMNS = (
    *("work", "source", "split", "shard", "published", "published_at", "reserved", "reserved_by", "created", "created_by"),
    *TEXTS,
    *("data_mining", "credentials", "signer", "training", "side", "found_by"),
)
CLAIMS_SCHEMA = pa.schema(
    [*((name, pa.string()) for name in TEXT_COLUMNS), *((name, pa.list_(pa.string())) for name in ("contradictions", "faults"))]
)
"""Columns of the table of claims: a row for each work."""
NON_MEMBERS_SCHEMA = pa.schema([(name, pa.string()) for name in ("split", "shard", "key", "source", "published")])
"""Columns of the table of certain non-members; with split and shard it is a selection of the works' manifest."""


class ClaimsSummary(BaseModel):
    """Counts of what works say."""

    works: int
    by_year: dict[str, dict[str, int]]
    """Works by the year of their publication or `unknown`, and by whether rights were reserved."""
    reserved: dict[str, int]
    reserved_by: dict[str, int]
    """Works whose reservation, or the lack of one, is said, by where."""
    faults: dict[str, int]
    """What could not be read or understood, by what; a work may have several."""
    credentials: dict[str, int]
    """Works with Content Credentials, by the state of their signature, or `not read`."""
    credentials_can_be_read: bool
    model: str | None
    cut_off: str | None
    sides: dict[str, int]
    """Works by their side of the cut-off; empty without one."""
    contradictions: dict[str, int]
    """Contradictions, by kind."""
    of_provider: list[str]
    """Contradictions in what the provider says."""
    found: int | None
    """Works that a lookup found by address or digest; none where none was given."""
    listed: int | None
    """Works that it found in whatever way."""
    late: Late | None
    """What was written of the certain non-members; none where no folder was named for them."""


@dataclass(frozen=True)
class Claims:
    """The result of `claims`.

    Attributes:
        summary: counts.
        table: see `CLAIMS_SCHEMA`.
    """

    summary: ClaimsSummary
    table: pa.Table


def claims(
    works: Works,
    console: Console,
    provider: ProviderClaims | None = None,
    lookup: str | None = None,
    out: str | None = None,
    non_members: str | None = None,
) -> Claims:
    """List what works say, and what speaks against it.

    Args:
        works: see `raymia.curation.works.Works`.
        console: where progress is shown.
        provider: what a model's provider says; none for what the works' manifest has of that, if it has.
        lookup: table of matches that `raymia data lookup` wrote for these works.
        out: Parquet file for the table.
        non_members: for the works that were first published after the cut-off: a Parquet file for their keys, or a folder for
            their images, see `raymia.curation.late.write_late`.

    Raises:
        ConfigError: the works or the lookup cannot be used, or there is no cut-off to tell non-members by.
    """
    found_at = manifest_at(works.source)
    provider = provider or (None if found_at is None else found_at[0].claims)
    if non_members is not None and (provider is None or provider.cut_off is None):
        raise ConfigError(
            "--non-members: known by a cut-off alone; give --provider with `cut_off`, or `claims` with one in the manifest"
        )
    read = [works.source.partition("#")[0] if found_at is not None else works.source, *([lookup] if lookup is not None else [])]
    table_out = None if out is None else output_table("--out", out, read)
    keys_out = folder_out = None
    if non_members is not None and non_members.lower().endswith(".parquet"):
        keys_out = output_table("--non-members", non_members, [*read, *([out] if out is not None else [])])
    elif non_members is not None:
        folder_out = empty_folder("--non-members", non_members)
    found = None if lookup is None else _found(lookup)
    readable = can_read()
    rows: list[ClaimRow] = []
    with Progress(TextColumn("{task.description}"), console=console, transient=True) as progress:
        task = progress.add_task("")
        for work in works.read(with_images=True):
            rows.append(claims_of(work, provider, found, readable))
            progress.update(task, description=f"{len(rows):,} works read")
    if not rows:
        raise ConfigError(f"{public(works.source)}: holds no work")
    if found and not any((row.values["work"], row.values["source"]) in found for row in rows):
        raise ConfigError(f"--lookup {public(lookup or '')}: names none of these works; expected matches of a lookup of them")
    settle(rows)
    table = pa.Table.from_pylist([row.content() for row in rows], CLAIMS_SCHEMA)
    if table_out is not None:
        table_out[0].write_table(table_out[1], table)
    if keys_out is not None:
        keys_out[0].write_table(keys_out[1], _non_members(rows))
    late = None
    if folder_out is not None and provider is not None:
        sources = [str(row.values["source"]) for row in rows]
        late = write_late(folder_out, works, sources, [row.values.get("side") == NON_MEMBER for row in rows], provider)
    return Claims(_summary(rows, provider, found is not None, readable, late), table)


def _found(lookup: str) -> dict[tuple[str, str], list[str]]:
    """The ways in which a lookup found each work, by key and source."""
    columns = ("work", "source", "way", "control")
    table: pd.DataFrame = read_table(lookup, columns, "--lookup", others=False)
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for work, source, way, control in table[[*columns]].itertuples(index=False):
        if str(control).lower() != "true" and way not in found[str(work), str(source)]:
            found[str(work), str(source)].append(str(way))
    return {work: ways for work, ways in found.items() if ways}


def _non_members(rows: Sequence[ClaimRow]) -> pa.Table:
    certain = [
        {**{name: row.values.get(name) for name in ("split", "shard", "source", "published")}, "key": row.values["work"]}
        for row in rows
        if row.values.get("side") == NON_MEMBER
    ]
    return pa.Table.from_pylist(certain, NON_MEMBERS_SCHEMA)


def _summary(
    rows: Sequence[ClaimRow], provider: ProviderClaims | None, looked: bool, readable: bool, late: Late | None
) -> ClaimsSummary:
    years: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        span = set() if row.published is None else {row.published.first.year, row.published.last.year}
        year = str(span.pop()) if len(span) == 1 else UNKNOWN
        years[year][str(row.values["reserved"])] += 1
    has_cut_off = provider is not None and provider.cut_off is not None
    sides = Counter(row.values.get("side") for row in rows)
    return ClaimsSummary(
        works=len(rows),
        by_year={year: dict(sorted(years[year].items())) for year in sorted(years)},
        reserved=_counts(row.values["reserved"] for row in rows),
        reserved_by=_counts(row.values["reserved_by"] for row in rows),
        faults=_counts(name for row in rows for name in row.faults),
        credentials=_counts(row.values.get("credentials") for row in rows),
        credentials_can_be_read=readable,
        model=None if provider is None else provider.model,
        cut_off=None if provider is None or provider.cut_off is None else provider.cut_off.value,
        sides={side: sides[side] for side in SIDES} if has_cut_off else {},
        contradictions=_counts(kind for row in rows for kind in row.contradictions),
        of_provider=[] if provider is None else contradictions_of(provider),
        found=sum(row.values.get("found_by") is not None for row in rows) if looked else None,
        listed=sum(bool(row.listed) for row in rows) if looked else None,
        late=late,
    )


def _counts(names: Iterable[str | None]) -> dict[str, int]:
    return dict(sorted(Counter(name for name in names if name is not None).items()))
