"""CSV as people bring it, read as text alone: whatever may have shifted a column is an error that names the line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

import pyarrow as pa

from raymia.data.captions import BOMS

ROWS_AT_ONCE = 65_536
"""Rows that are held as objects of Python before they are packed."""
OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


class TableError(Exception):
    """A table is not what it should be; says what is wrong, where, and what was expected."""


def read_csv(content: bytes) -> pa.Table:
    """The columns of a CSV as text, an empty field being null.

    Fields are separated by commas; one that holds a comma, a quote or a line break stands in double quotes. The first line
    names the columns; one without a name is called by its number. The encoding is UTF-8, or what a byte order mark says.

    Raises:
        TableError: it is no such CSV.
    """
    text = _decoded(content)
    rows = _rows(text)
    _, header = next(rows, (0, []))
    if not header:
        raise TableError("is empty; expected a first line that names the columns")
    names = [name.strip() or f"column {number}" for number, name in enumerate(header, 1)]
    if len(names) == 1:
        other = next((word for mark, word in OTHER_SEPARATORS.items() if mark in names[0]), None)
        if other is not None:
            raise TableError(f"its columns are separated by {other}; expected commas")
    kinds = pa.schema([(name, pa.large_string()) for name in names])
    return pa.Table.from_batches(list(_batches(rows, kinds)), kinds)


def require_distinct(names: Sequence[str]) -> None:
    """See that no two columns share a name.

    Raises:
        TableError: two do.
    """
    repeated = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if repeated is not None:
        raise TableError(f"has more than one column {repeated}; give each a name of its own")


def _decoded(content: bytes) -> str:
    mark = next((mark for mark in BOMS if content.startswith(mark)), b"")
    encoding = BOMS.get(mark, "utf-8")
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise TableError(f"line {line} is not {encoding.upper()}; save the table as UTF-8") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise TableError(f"line {line} holds a NUL character; expected text, saved as UTF-8")
    return text


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank, with the line that it ends in."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise TableError(f"line {reader.line_num}: {error}; a quote within quotes is written twice") from error


def _batches(rows: Iterator[tuple[int, list[str]]], kinds: pa.Schema) -> Iterator[pa.RecordBatch]:
    require_distinct(kinds.names)
    held: list[list[str | None]] = []
    for line, row in rows:
        if len(row) != len(kinds):
            raise TableError(
                f"line {line}: expected {len(kinds)} fields as in the first line, found {len(row)}; put commas in quotes"
            )
        held.append([field or None for field in row])
        if len(held) == ROWS_AT_ONCE:
            yield _batch(held, kinds)
            held = []
    if held:
        yield _batch(held, kinds)


def _batch(rows: list[list[str | None]], kinds: pa.Schema) -> pa.RecordBatch:
    return pa.record_batch([pa.array(column, pa.large_string()) for column in zip(*rows, strict=True)], kinds)
