"""Works looked for in a public training list: found there by URL, by digest, by look or by embedding.

A row that names a work is better evidence than any inference, and says less than it seems: that a model was trained on the
list, and that the image was still to be had when the list was downloaded, are other questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel
from rich.console import Console
from rich.progress import Progress, TextColumn

from raymia.curation.digests import SIZES
from raymia.curation.lists import MEANS, TRIED, List, find_lists
from raymia.curation.matches import Found, Match
from raymia.curation.output import output_table
from raymia.curation.perceptual import expected_by_chance
from raymia.curation.sought import NO_FEATURES, KnownVectors, Sought, sought_of
from raymia.curation.ways import MAX_BITS, WAYS, ByAddress, ByDigest, ByEmbedding, ByLook, Hit, Way
from raymia.curation.works import Works
from raymia.data.arrays import vector_batches, vectors_shape
from raymia.data.tables import BATCH_ROWS, read_columns, table_batches, text_of
from raymia.errors import ConfigError
from raymia.urls import public

NOT_IN_LISTS = "not_in_lists"
"""Why a work was not looked for: no table has what that takes."""
MEANS_OF = dict(zip(WAYS, ("url", "url", "url", "sha256", "md5", "phash", "embedding"), strict=True))
"""The column of a list that each way goes by."""


class WaySummary(BaseModel):
    """What was found in one way."""

    way: str
    rows_compared: int
    """Rows of the lists that have what the way goes by."""
    looked_for: int
    found: int
    rows: int
    """Pairs of a work and a row that names it."""
    controls_looked_for: int
    controls_found: int
    expected_by_chance: float | None
    """Pairs that would be found if the bits of all perceptual hashes were thrown by coins; none for other ways."""


class ListSummary(BaseModel):
    """A table that was looked through."""

    table: str
    rows: int
    columns: dict[str, str]
    """The column that was used, by what for."""
    unused: dict[str, str]
    """Columns that were not, with why where their name promises something."""
    embeddings: str | None


class LookupSummary(BaseModel):
    """What became of the works."""

    works: int
    found: int
    """Works that some row names, in whatever way."""
    controls: int
    controls_found: int
    controls_left_out: int
    """Controls that are works too, the file or the address being the same."""
    rows: int
    ways: list[WaySummary]
    not_looked_for: dict[str, dict[str, int]]
    """Works that could not be looked for, by what that takes and by reason."""
    clip: str | None
    """The model that made the works' embeddings, as `raymia data embed` was told; none without embeddings."""
    tables: list[ListSummary]
    left_out: int
    """Matches beyond the first thousand of a work and a way, which are counted and not written."""


@dataclass(frozen=True)
class Lookup:
    """What `lookup` found.

    Attributes:
        summary: counts.
        matches: see `MATCHES_SCHEMA`.
    """

    summary: LookupSummary
    matches: pa.Table


def lookup(
    works: Works,
    tables: Sequence[str],
    console: Console,
    control: Works | None = None,
    features: Sequence[str] = (),
    embeddings: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    out: str | None = None,
    batch_rows: int = BATCH_ROWS,
) -> Lookup:
    """Look for works in tables of a training list.

    Args:
        works: what is looked for.
        tables: see `raymia.curation.lists.find_lists`, and so for `embeddings` and `columns`.
        console: where progress is shown.
        control: images that are not in the list as far as anybody knows: what is found of them is found wrongly.
        features: folders that `raymia data embed` filled for works and controls, by the model that made the list's embeddings.
        out: Parquet file for the matches.
        batch_rows: rows of a table that are looked at together.

    Raises:
        ConfigError: a source cannot be used, or a table has nothing by which these works could be found.
    """
    lists = find_lists(tables, embeddings, columns or {})
    read = [works.source, *([control.source] if control else []), *(table.source for table in lists)]
    read += [table.vectors for table in lists if table.vectors is not None]
    storage = None if out is None else output_table("--out", out, read)
    for table in lists:
        if table.means == ("embedding",) and not features:
            raise ConfigError(f"table {public(table.source)}: it has embeddings alone; give the works' own with --features")
    means = tuple(name for name in MEANS if any(name in table.means for table in lists) and (name != "embedding" or features))
    if features and "embedding" not in means:
        raise ConfigError("--features: no table of the list has embeddings; leave it out, or name their column with --column")
    vectors = KnownVectors.read(features) if "embedding" in means else None
    if vectors is not None:
        for table in lists:
            _require_width(table, vectors.width)
    sought = sought_of(works, control, means, vectors)
    ways = _ways(sought, means, vectors)
    found = Found()
    with Progress(TextColumn("{task.description}"), console=console, transient=True) as progress:
        task = progress.add_task("")
        for table in lists:
            for count in _look_through(table, ways, found, batch_rows):
                found.rows[table.source] += count
                progress.update(task, description=f"{sum(found.rows.values()):,} rows looked at")
    matches = found.table(sought)
    if storage is not None:
        storage[0].write_table(storage[1], matches)
    return Lookup(_summary(sought, lists, ways, found, vectors), matches)


def _ways(sought: Sought, means: Sequence[str], vectors: KnownVectors | None) -> dict[str, Way]:
    """The ways of finding, by the column that each goes by."""
    made: dict[str, Way] = {}
    for name in means:
        known = sought.known[name]
        if name == "url":
            made[name] = ByAddress(known)  # type: ignore[arg-type]
        elif name in SIZES:
            made[name] = ByDigest(name, known)  # type: ignore[arg-type]
        elif name == "phash":
            made[name] = ByLook(known)  # type: ignore[arg-type]
        elif vectors is not None:
            made[name] = ByEmbedding(known, vectors.width)  # type: ignore[arg-type]
    return made


def _look_through(table: List, ways: Mapping[str, Way], found: Found, batch_rows: int) -> Iterator[int]:
    """Note every row of a table that names a work; gives how many rows each batch has."""
    columns = {role: name for role, name in table.columns.items() if role in ways or role in ("url", "text")}
    chosen = list(dict.fromkeys(columns.values())) or list(read_columns(table.source, "table").names[:1])
    vectors = _vectors_beside(table, ways, batch_rows)
    start = 0
    for batch in table_batches(table.source, chosen, "table", batch_rows):
        hits: list[Hit] = []
        for role in (role for role in columns if role in ways):
            hits += ways[role].find(batch.column(columns[role]))
        if vectors is not None:
            hits += vectors.take(batch.num_rows)
        if hits:
            texts = [
                text_of(columns[role], batch.column(columns[role])) if role in columns else None for role in ("url", "text")
            ]
            for work, row, way, distance in hits:
                url, caption = (None if text is None else text[row].as_py() for text in texts)
                found.add(work, way, Match(distance or 0.0, public(table.source), start + row, url, caption))
        start += batch.num_rows
        yield batch.num_rows


class _Beside:
    """A file of embeddings that is read along with its table."""

    def __init__(self, source: str, way: ByEmbedding, batch_rows: int) -> None:
        self._batches = vector_batches(source, batch_rows)
        self._way = way
        self._held = np.empty((0, way.width), np.float32)

    def take(self, rows: int) -> Iterator[Hit]:
        """The hits among that many vectors, those that come next."""
        parts = [self._held]
        while sum(map(len, parts)) < rows:
            parts.append(next(self._batches))
        vectors = np.concatenate(parts)
        self._held = vectors[rows:]
        return self._way.find_vectors(vectors[:rows], np.arange(rows))


def _vectors_beside(table: List, ways: Mapping[str, Way], batch_rows: int) -> _Beside | None:
    way = ways.get("embedding")
    if table.vectors is None or not isinstance(way, ByEmbedding):
        return None
    return _Beside(table.vectors, way, batch_rows)


def _require_width(table: List, width: int) -> None:
    """See that a table's embeddings are as wide as the works', or some of the first that it has in a column of lists."""
    name = table.columns.get("embedding")
    if table.vectors is not None:
        sizes, what = {vectors_shape(table.vectors)[1]}, f"embeddings {public(table.vectors)}: vectors"
    elif name is not None:
        first = next(table_batches(table.source, [name], "table", TRIED), None)
        sizes = set() if first is None else {*pc.unique(pc.list_value_length(first.column(name))).drop_null().to_pylist()}
        what = f"table {public(table.source)}: column {name} holds vectors"
    else:
        return
    if sizes and width not in sizes:
        raise ConfigError(
            f"{what} of {min(sizes)} numbers, --features of {width}: made by another model; embed the works by that of the list"
        )


def _summary(
    sought: Sought, lists: Sequence[List], ways: Mapping[str, Way], found: Found, vectors: KnownVectors | None
) -> LookupSummary:
    numbers = {control: {work for work, _ in found.counts if sought.control[work] is control} for control in (False, True)}
    not_looked_for = {name: {NOT_IN_LISTS: sought.control.count(False)} for name in MEANS}
    if vectors is None and any("embedding" in table.means for table in lists):
        not_looked_for["embedding"] = {NO_FEATURES: sought.control.count(False)}
    for name in ways:
        reasons = Counter(reason for number, reason in sought.lacks[name].items() if not sought.control[number])
        not_looked_for[name] = dict(sorted(reasons.items()))
    return LookupSummary(
        works=sought.control.count(False),
        found=len(numbers[False]),
        controls=sought.control.count(True),
        controls_found=len(numbers[True]),
        controls_left_out=sought.left_out,
        rows=sum(found.rows.values()),
        ways=[_of_way(way, sought, ways, found) for way in WAYS if MEANS_OF[way] in ways],
        not_looked_for={name: reasons for name, reasons in not_looked_for.items() if reasons},
        clip=None if vectors is None else vectors.clip,
        tables=[
            ListSummary(
                table=public(table.source),
                rows=found.rows[table.source],
                columns=dict(table.columns),
                unused=dict(table.unused),
                embeddings=None if table.vectors is None else public(table.vectors),
            )
            for table in lists
        ],
        left_out=found.left_out,
    )


def _of_way(way: str, sought: Sought, ways: Mapping[str, Way], found: Found) -> WaySummary:
    means = MEANS_OF[way]
    counts = {work: count for (work, of), count in found.counts.items() if of == way}
    works = {work: count for work, count in counts.items() if not sought.control[work]}
    looked_for, rows = sought.count(means, False), ways[means].rows
    return WaySummary(
        way=way,
        rows_compared=rows,
        looked_for=looked_for,
        found=len(works),
        rows=sum(works.values()),
        controls_looked_for=sought.count(means, True),
        controls_found=len(counts) - len(works),
        expected_by_chance=expected_by_chance(sought.hashes, rows, MAX_BITS) if way == "phash" else None,
    )
