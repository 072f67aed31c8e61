"""Public training lists as they come: tables of which some columns say by what an image can be found there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from raymia.curation.murmur import laion_hash
from raymia.data.arrays import vectors_shape
from raymia.data.patterns import find
from raymia.data.tables import read_columns, table_batches, text_of
from raymia.errors import ConfigError, suggest
from raymia.urls import public

ROLES: dict[str, tuple[str, ...]] = {
    "url": ("url", "image_url", "img_url"),
    "text": ("text", "caption", "alt_text", "alt"),
    "sha256": ("sha256", "image_sha256"),
    "md5": ("md5", "image_md5"),
    "phash": ("phash", "image_phash"),
    "embedding": ("embedding", "image_embedding", "clip_embedding"),
}
"""What a column may be for, each with the names in lower case by which it is known, the first counting."""
MEANS = ("url", "sha256", "md5", "phash", "embedding")
"""Those of the roles by which an image can be found."""
LAION_HASH = "hash"
TRIED = 1000
"""Rows of whose column `hash` it is tried whether it is of URL and text."""


@dataclass(frozen=True)
class List:
    """A table of a training list.

    Attributes:
        source: path or URL of the table.
        columns: its column by role, of those in `ROLES` that it has.
        unused: names of its other columns, each with why it is not used where its name promises something.
        vectors: path or URL of a file of embeddings whose rows are the table's; none where they stand in it, or nowhere.
    """

    source: str
    columns: Mapping[str, str]
    unused: Mapping[str, str] = field(default_factory=dict)
    vectors: str | None = None

    @property
    def means(self) -> tuple[str, ...]:
        """By what an image can be found in it."""
        return tuple(name for name in MEANS if name in self.columns or (name == "embedding" and self.vectors is not None))


def find_lists(tables: Sequence[str], embeddings: Sequence[str], named: Mapping[str, str]) -> list[List]:
    """The tables that paths, URLs and globs name, in the order of their names, each with what its columns are for.

    Args:
        tables: Parquet or CSV.
        embeddings: files of numpy's whose rows are those of the tables; as many as there are tables, or none.
        named: columns by role, where they have other names than are known.

    Raises:
        ConfigError: one cannot be read or found, has none of the columns, or the embeddings do not fit.
    """
    for role in named:
        if role not in ROLES:
            raise ConfigError(f"--column {role}={named[role]}: nothing is looked for by that{suggest(role, [*ROLES])}")
    sources = [place for pattern in tables for place in find(pattern, "")]
    beside = [place for pattern in embeddings for place in find(pattern, "")]
    repeated = next((place for place in sources if sources.count(place) > 1), None) if len({*sources}) < len(sources) else None
    if repeated is not None:
        raise ConfigError(f"--in {public(repeated)}: named twice; name each table once")
    if beside and len(beside) != len(sources):
        raise ConfigError(
            f"--embeddings: {len(beside)} files for {len(sources)} tables; expected one for each, in the order of the tables"
        )
    of_table = dict(zip(sources, beside, strict=True)) if beside else {}
    return [_list(source, of_table.get(source), named) for source in sorted(sources)]


def _list(source: str, vectors: str | None, named: Mapping[str, str]) -> List:
    schema = read_columns(source, "table")
    columns = _named(source, schema, named)
    lower = {name.lower(): name for name in reversed(schema.names)}
    unused = dict.fromkeys(schema.names, "")
    for role, names in ROLES.items():
        name = next((lower[name] for name in names if name in lower), None)
        if name is not None and role not in columns:
            unused[name] = _unfit(role, schema.field(name).type) or ""
            columns |= {} if unused[name] else {role: name}
    if vectors is not None:
        columns.pop("embedding", None)
        _require_alike(source, vectors)
    unused = {name: why for name, why in unused.items() if name not in columns.values()}
    if LAION_HASH in unused:
        unused[LAION_HASH] = _of_hash(source, columns)
    found = List(source, columns, unused, vectors)
    if not found.means:
        raise ConfigError(
            f"table {public(source)}: none of its columns finds an image; expected one of "
            f"{', '.join(name for role in MEANS for name in ROLES[role])}, or --column; it has {', '.join(schema.names)}"
        )
    return found


def _named(source: str, schema: pa.Schema, named: Mapping[str, str]) -> dict[str, str]:
    """The columns that are named for something, which must be there and fit for it."""
    for role, name in named.items():
        if name not in schema.names:
            has = ", ".join(schema.names)
            raise ConfigError(f"table {public(source)}: no column {name}, which --column {role}={name} names; it has {has}")
        unfit = _unfit(role, schema.field(name).type)
        if unfit is not None:
            raise ConfigError(f"table {public(source)}: column {name}, which --column names for {role}, {unfit}")
    return dict(named)


def _unfit(role: str, kind: pa.DataType) -> str | None:
    """Why a column cannot be what its name promises; none where it can."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    text = any(
        check(value) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    )
    binary = pa.types.is_binary(value) or pa.types.is_large_binary(value) or pa.types.is_fixed_size_binary(value)
    if role == "embedding":
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        return None if lists and pa.types.is_floating(kind.value_type) else f"is {kind}; expected lists of floats"
    if role == "phash":
        whole = pa.types.is_int64(value) or pa.types.is_uint64(value)
        return None if text or whole else f"is {kind}; expected whole numbers of 64 bits or hexadecimal digits"
    return None if text or (binary and role != "text") else f"is {kind}; expected text"


def _require_alike(source: str, vectors: str) -> None:
    """See that a table has as many rows as its file of embeddings."""
    count, _ = vectors_shape(vectors)
    rows = sum(batch.num_rows for batch in table_batches(source, read_columns(source, "table").names[:1], "table"))
    if rows != count:
        raise ConfigError(
            f"embeddings {public(vectors)}: {count} vectors, but {public(source)} has {rows} rows; expected as many"
        )


def _of_hash(source: str, columns: Mapping[str, str]) -> str:
    """What is known of a column `hash`, which is never used."""
    otherwise = "of what is not known; if it is of the image's bytes, name it: --column sha256=hash"
    if not {"url", "text"} <= {*columns}:
        return otherwise
    names = (LAION_HASH, columns["url"], columns["text"])
    batch = next(table_batches(source, names, "table", TRIED), None)
    if batch is None:
        return otherwise
    rows = zip(*(text_of(name, batch.column(name)).to_pylist() for name in names), strict=True)
    tried = [(known, str(laion_hash(url, text))) for known, url, text in rows if None not in (known, url, text)]
    alike = sum(known == made for known, made in tried)
    if not alike:
        return otherwise
    part = "" if alike == len(tried) else f" in {alike:,} of {len(tried):,} rows"
    return f"LAION's hash of URL and text{part}, not of the image"
