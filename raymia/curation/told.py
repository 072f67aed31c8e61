"""What a table or a JSON says of a work: where and when it was published, whether rights were reserved, and its digests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from raymia.curation.digests import SIZES, digest_texts
from raymia.curation.perceptual import hashes_of, written_hash
from raymia.data.delimited import TableError
from raymia.data.tables import read_columns, table_batches, text_of
from raymia.documents import DocumentError, parse_json
from raymia.errors import ConfigError
from raymia.urls import public

MAX_FACT = 2**15
"""Characters of a fact that count; no longer text is a date, an address or a digest."""
FACTS = {
    "url": ("url", "image_url", "img_url"),
    "sha256": ("sha256", "image_sha256"),
    "md5": ("md5", "image_md5"),
    "phash": ("phash", "image_phash"),
    "url_without_query": ("url_without_query",),
    "key": ("key",),
    "published": ("published",),
    "published_at": ("published_at",),
    "reserved": ("reserved",),
}
"""What may be known of a work, with the names, in lower case, of columns and fields that say so, the first counting."""
CUT_URL = "url_without_query"
"""A URL of which it is not known whether it had a query: shards hold none."""
KEPT = ("url", CUT_URL, "published", "published_at", "reserved")
"""Those that are packed with an image, in the JSON beside it."""
ADDRESSES = ("url", CUT_URL, "published_at")
SOURCE = "source"
"""A field of a JSON that holds the work's URL where it holds one: `raymia data pack` names there what an image came from."""
UNREADABLE = "facts_unreadable"
"""Why nothing is known from a JSON that is there, and the flag of an image that was packed without what it says."""


class ToldError(ValueError):
    """What stands beside a work cannot be read; says why."""


def names_in(names: Iterable[str], facts: Iterable[str] = FACTS) -> dict[str, str]:
    """The column or field of each fact that some names have one for, whatever their case."""
    lower = {name.lower(): name for name in reversed([*names])}
    chosen = {fact: next((lower[name] for name in FACTS[fact] if name in lower), None) for fact in facts}
    return {fact: name for fact, name in chosen.items() if name is not None}


def facts_in_json(content: bytes, url_field: str | None = None) -> dict[str, str]:
    """The facts in a JSON beside an image, as text; what is no text is told as JSON writes it, for others to find fault with.

    Args:
        content: of the file; it may be anything.
        url_field: the field that holds the URL; none for the usual names.

    Raises:
        ToldError: it is no JSON, or none of fields.
    """
    if not content.strip():
        return {}
    try:
        fields: Any = parse_json(content, strict=False)
    except DocumentError as error:
        raise ToldError(str(error)) from error
    if not isinstance(fields, dict):
        raise ToldError(f"expected fields, found {type(fields).__name__}")
    names = names_in(fields)
    if url_field is not None:
        names.pop("url", None)
        names |= {"url": url_field} if url_field in fields else {}
    elif not {"url", CUT_URL} & {*names} and str(fields.get(SOURCE, "")).lower().startswith(("http://", "https://")):
        names[CUT_URL] = SOURCE
    told = {fact: _plain(fact, fields[name]) for fact, name in names.items()}
    return {fact: text for fact, text in told.items() if text}


def facts_in_rows(table: str, columns: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The facts in each row of a table, by the columns that hold them; those that are missing or empty left out.

    Raises:
        ConfigError: the table cannot be read, or a column holds no text.
    """
    chosen = list(dict.fromkeys(columns.values()))
    for batch in table_batches(table, chosen or read_columns(table, "table").names[:1], "table"):
        texts = {fact: _texts(table, fact, column, batch) for fact, column in columns.items()}
        for number in range(batch.num_rows):
            row = {fact: values[number] for fact, values in texts.items()}
            yield {fact: value[:MAX_FACT] for fact, value in row.items() if value}


def kept(facts: Mapping[str, str]) -> dict[str, str]:
    """The facts that are packed with an image; of addresses what may be seen, and one that lost its query is told apart."""
    found = {name: facts[name] for name in KEPT if name in facts}
    for name in ADDRESSES:
        if name in found:
            found[name] = public(found[name])
    if "url" in found and "?" in facts["url"].partition("#")[0]:
        found.setdefault(CUT_URL, found.pop("url"))
    return {name: found[name] for name in KEPT if name in found}


def _plain(fact: str, value: Any) -> str:
    """A field as text; a perceptual hash that is a whole number by its hexadecimal digits."""
    if value is None or isinstance(value, str):
        # Half a surrogate pair, which JSON can spell, is no text.
        return (value or "")[:MAX_FACT].encode("utf-8", "replace").decode()
    if fact == "phash" and isinstance(value, int) and -(2**63) <= value < 2**64:
        return written_hash(value)
    return (str(value) if isinstance(value, int | float) else json.dumps(value))[:MAX_FACT]


def _texts(table: str, fact: str, column: str, batch: pa.RecordBatch) -> list[str | None]:
    values = batch.column(column)
    try:
        if fact == "phash" and pa.types.is_integer(values.type):
            hashes, there = hashes_of(values)
            return [written_hash(int(value)) if known else None for value, known in zip(hashes, there, strict=True)]
        texts: list[str | None] = (digest_texts(fact, values) if fact in SIZES else text_of(column, values)).to_pylist()
    except TableError as error:
        raise ConfigError(f"table {public(table)}: {error}") from error
    return texts
