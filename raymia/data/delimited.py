"""CSV as people bring it, read as text alone: whatever may have shifted a column is an error that names the line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO

import pyarrow as pa

from raymia.data.captions import BOMS

ROWS_AT_ONCE = 65_536
"""Rows that are held as objects of Python before they are packed."""
MAX_LINE = 2**24
"""Characters of a line; a file that is read line by line and has a longer one is no table."""
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
    rows = _rows(io.StringIO(_decoded(content), newline=""))
    kinds = _header(rows)
    return pa.Table.from_batches(list(_batches(rows, kinds)), kinds)


def csv_header(stream: BinaryIO) -> pa.Schema:
    """The columns of a CSV, of which no more than the first lines are read; see `read_csv`.

    Raises:
        TableError: it does not begin like one.
    """
    return _header(_rows(_lines(stream)))


def csv_batches(stream: BinaryIO) -> Iterator[pa.RecordBatch]:
    """The rows of a CSV that may be larger than memory, some at a time, otherwise as `read_csv` gives them.

    Raises:
        TableError: it is no such CSV, or not any further.
    """
    rows = _rows(_lines(stream))
    yield from _batches(rows, _header(rows))


def _header(rows: Iterator[tuple[int, list[str]]]) -> pa.Schema:
    """Columns of text by the names in the first row."""
    _, header = next(rows, (0, []))
    if not header:
        raise TableError("is empty; expected a first line that names the columns")
    names = [name.strip() or f"column {number}" for number, name in enumerate(header, 1)]
    if len(names) == 1:
        other = next((word for mark, word in OTHER_SEPARATORS.items() if mark in names[0]), None)
        if other is not None:
            raise TableError(f"its columns are separated by {other}; expected commas")
    require_distinct(names)
    return pa.schema([(name, pa.large_string()) for name in names])


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


def _lines(stream: BinaryIO) -> Iterator[str]:
    """The lines of a text, of which no more is held than one."""
    start = stream.read(max(map(len, BOMS)))
    mark = next((mark for mark in BOMS if start.startswith(mark)), b"")
    encoding = BOMS.get(mark, "utf-8")
    stream.seek(len(mark))
    text, number = io.TextIOWrapper(stream, encoding, newline=""), 0
    try:
        while line := text.readline(MAX_LINE):
            number += 1
            if len(line) == MAX_LINE and not line.endswith(("\n", "\r")):
                raise TableError(f"line {number} has more than {MAX_LINE} characters; expected a table of short lines")
            if "\0" in line:
                raise TableError(f"line {number} holds a NUL character; expected text, saved as UTF-8")
            yield line
    except UnicodeDecodeError as error:
        raise TableError(f"line {number + 1} or one after it is not {encoding.upper()}; save the table as UTF-8") from error
    finally:
        with suppress(ValueError):  # closed already, by whom it belongs to
            text.detach()


def _rows(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank, with the line that it ends in."""
    reader = csv.reader(lines, strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise TableError(f"line {reader.line_num}: {error}; a quote within quotes is written twice") from error


def _batches(rows: Iterator[tuple[int, list[str]]], kinds: pa.Schema) -> Iterator[pa.RecordBatch]:
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
