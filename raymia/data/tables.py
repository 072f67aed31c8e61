"""Plain tables that users bring: Parquet or CSV at a path or fsspec URL, with the columns that are needed, as they stand there.

No type is guessed: what is to be text is text, so that a caption `007`, `true` or `1e5` and a file `0003` stay what they are.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymia.data.delimited import TableError, csv_batches, csv_header, read_csv, require_distinct
from raymia.data.remote import UnreadableError, open_file, read_file
from raymia.errors import ConfigError, first_line
from raymia.urls import public

T = TypeVar("T")

ENDINGS = (".parquet", ".csv")
"""Endings of the files that are taken for tables."""
MAX_CSV_BYTES = 2 * 2**30
"""A larger CSV is not read; a Parquet of the same rows is."""
MAX_TABLE_BYTES = 16 * 2**30
"""A table whose columns would take more memory is not read."""
MAX_ROWS = 200_000_000
"""A Parquet that claims more rows is not read."""
MAX_FOOTER_BYTES = 256 * 2**20
"""A Parquet whose footer claims to be larger is not read."""
BATCH_ROWS = 16_384
MAX_BATCH_BYTES = 2**28
"""A batch of a table that is read batch by batch has fewer rows where they are so large, as far as the footer says so."""
VALUES_AT_ONCE = 16
"""Rows that are held at once where each may be an image."""
TAIL = re.compile(rb"....PAR1", re.DOTALL)
"""The end of every Parquet: the footer's size, and a mark."""


def is_table(source: str) -> bool:
    """Whether a path or URL names a table, by its ending."""
    return _plain(source).lower().endswith(ENDINGS)


def read_table(
    source: str, required: Sequence[str], what: str, others: bool = True, text: Sequence[str] | None = None
) -> pd.DataFrame:
    """Read a table.

    Args:
        source: path or URL ending in ``.parquet`` or ``.csv``; of a CSV, columns are separated by commas.
        required: columns that must be there.
        what: what errors call the table.
        others: whether to read columns that are neither required nor text, too; those of a CSV are numbers where every field is
            one, and text else. A large Parquet is read faster without.
        text: columns that are read as text where they are there; by default those that are required. A field that is empty or
            null is missing.

    Raises:
        ConfigError: the table cannot be read, a column is missing, or one that is to be text holds something else.
    """
    as_text = tuple(required if text is None else text)
    wanted = None if others else dict.fromkeys((*required, *as_text))

    def read(file: _Parquet | pa.Table) -> pa.Table:
        names = file.schema.names
        missing = [name for name in required if name not in names]
        if missing:
            raise TableError(f"no column {', '.join(missing)}; it has {', '.join(names)}")
        columns = names if wanted is None else [name for name in wanted if name in names]
        table = file.select(columns)
        # Of Parquet, a column `a.b` comes along where `a` is asked for.
        table = table.select([name for name in table.column_names if name in columns])
        return table if isinstance(file, pa.Table) else _with_text(table, as_text)

    table = _opened(source, what, read)
    numeric = set() if is_parquet(source) else set(table.column_names) - {*required, *as_text}
    # Column by column, so that an error names the one; an index that pandas once wrote is a column like the others.
    frame = {name: _to_pandas(source, what, name, table.column(name)) for name in table.column_names}
    return pd.DataFrame({name: _numbers(column) if name in numeric else column for name, column in frame.items()})


def read_schema(source: str, what: str) -> pa.Schema:
    """Names and types of a table's columns; those of a CSV are all text.

    Raises:
        ConfigError: the table cannot be read.
    """
    schema: pa.Schema = _opened(source, what, lambda file: file.schema)
    return schema


def read_leaf(source: str, column: str, leaf: str, what: str) -> list[str | None]:
    """The text in one field of a Parquet's column of structs, by row; the others are not read.

    Raises:
        ConfigError: the table cannot be read, or the field holds no text.
    """

    def read(file: _Parquet | pa.Table) -> list[str | None]:
        chunks = file.select([f"{column}.{leaf}"]).column(column).chunks
        fields = [_foreign(partial(pc.struct_field, chunk, leaf)) for chunk in chunks]
        return [value for field in fields for value in _text(f"{column}.{leaf}", pa.chunked_array([field])).to_pylist()]

    return _opened(source, what, read)


def is_parquet(source: str) -> bool:
    """Whether a path or URL names a Parquet file, by its ending."""
    return _plain(source).lower().endswith(".parquet")


def parquet_rows(source: str, column: str, rows: Sequence[int]) -> Iterator[Any]:
    """What a column of a Parquet holds in some rows, without reading the row groups between them.

    Args:
        source: path or URL.
        column: its name.
        rows: numbers of the rows, from 0 and ascending.

    Raises:
        UnreadableError, TableError: the file cannot be read, or not any further.
    """
    with open_file(source) as stream:
        yield from _Parquet(stream).values(column, rows)


def read_columns(source: str, what: str) -> pa.Schema:
    """Names and types of a table's columns, of which no row is read, however large it is; those of a CSV are all text.

    Raises:
        ConfigError: the table cannot be read.
    """
    with _named(source, what), open_file(source) as stream:
        return _Parquet(stream).schema if is_parquet(source) else csv_header(stream)


def table_batches(source: str, columns: Sequence[str], what: str, rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """Some columns of a table that may be larger than memory, some rows at a time and in their order.

    Args:
        source: path or URL ending in ``.parquet`` or ``.csv``.
        columns: names of columns that are there; batches have them in this order, and of the types that the file has.
        what: what errors call the table.
        rows: that a batch has at most.

    Raises:
        ConfigError: the table cannot be read, or not any further.
    """
    with _named(source, what), open_file(source) as stream:
        read = _Parquet(stream).bounded(columns, rows) if is_parquet(source) else csv_batches(stream)
        for batch in read:
            if batch.nbytes > MAX_TABLE_BYTES:
                raise TableError(f"{batch.num_rows} of its rows take {batch.nbytes} bytes; at most {MAX_TABLE_BYTES} are read")
            chosen = _foreign(partial(batch.select, list(columns)))
            yield from (chosen.slice(start, rows) for start in range(0, chosen.num_rows, rows))


def text_of(name: str, column: pa.Array) -> pa.Array:
    """A column of a batch as text; what is no UTF-8 after all, though its file says so, is missing.

    Raises:
        TableError: it is of several values in a row, or of a type that is never text.
    """
    column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    try:
        return _text(name, pa.chunked_array([column])).combine_chunks()
    except TableError:
        kind = column.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            # The cast from one kind of text to another looks at nothing, nor does that to bytes.
            column = column.cast(pa.large_string()).cast(pa.large_binary())
        elif not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise
    contents = column.to_pylist()
    return pa.array([None if content is None else _utf8(content) for content in contents], pa.large_string())


def _utf8(content: bytes) -> str | None:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


class _Parquet:
    """A Parquet file within bounds; pyarrow is called here alone."""

    def __init__(self, stream: BinaryIO) -> None:
        """Read the footer.

        Raises:
            TableError: it is no Parquet, or claims too much.
        """
        _check_tail(stream)
        self._file: pq.ParquetFile = _foreign(lambda: pq.ParquetFile(stream))
        self.schema: pa.Schema = _foreign(lambda: self._file.schema_arrow)
        require_distinct(self.schema.names)
        if self._file.metadata.num_rows > MAX_ROWS:
            raise TableError(f"claims {self._file.metadata.num_rows} rows; at most {MAX_ROWS} are read")

    def select(self, columns: Sequence[str]) -> pa.Table:
        """All rows of some columns, in their order."""
        kept, size = [], 0
        for batch in self.batches(columns, BATCH_ROWS, None):
            size += batch.nbytes
            if size > MAX_TABLE_BYTES:
                raise TableError(f"its columns {', '.join(columns)} take more than {MAX_TABLE_BYTES} bytes of memory")
            kept.append(batch)
        return pa.Table.from_batches(kept) if kept else self.schema.empty_table()

    def batches(self, columns: Sequence[str], rows: int, groups: Sequence[int] | None) -> Iterator[pa.RecordBatch]:
        """Some columns, that many rows at a time, of the row groups of those numbers."""
        read = _foreign(lambda: self._file.iter_batches(rows, row_groups=groups, columns=list(columns)))
        while True:
            batch = _foreign(lambda: next(read, None))
            if batch is None:
                return
            yield batch

    def bounded(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """All rows of some columns, at most that many at a time, and fewer of large ones."""
        for group in range(self._file.metadata.num_row_groups):
            facts = _foreign(partial(self._file.metadata.row_group, group))
            # Of all columns: what a damaged footer says of a single one may end the process when pyarrow is asked for it.
            at_once = min(rows, max(1, MAX_BATCH_BYTES * facts.num_rows // max(1, facts.total_byte_size)))
            yield from self.batches(columns, at_once, [group])

    def values(self, column: str, rows: Sequence[int]) -> Iterator[Any]:
        """What a column holds in some rows, whose numbers ascend."""
        metadata, end = self._file.metadata, 0
        for group in range(metadata.num_row_groups):
            start, end = end, end + int(_foreign(partial(metadata.row_group, group)).num_rows)
            wanted = rows[bisect_left(rows, start) : bisect_left(rows, end)]
            for batch in self.batches([column], VALUES_AT_ONCE, [group]) if wanted else ():
                inside = wanted[: bisect_left(wanted, start + batch.num_rows)]
                yield from _foreign(partial(_taken, batch.column(0), [row - start for row in inside]))
                start, wanted = start + batch.num_rows, wanted[len(inside) :]
                if not wanted:
                    break
            if wanted:
                raise TableError(f"row group {group} ends before row {wanted[0]}")
        if rows and rows[-1] >= end:
            raise TableError(f"ends before row {rows[-1]}")


def _opened(source: str, what: str, act: Callable[[_Parquet | pa.Table], T]) -> T:
    """What `act` makes of an open table, every fault of which is one error that names it."""
    with _named(source, what):
        if not is_parquet(source):
            return act(read_csv(read_file(source, MAX_CSV_BYTES)))
        with open_file(source) as stream:
            return act(_Parquet(stream))


@contextmanager
def _named(source: str, what: str) -> Iterator[None]:
    """Within this block every fault of a table is one error that names it.

    Raises:
        ConfigError: there is one, or the source is no table by its ending.
    """
    if not is_table(source):
        raise ConfigError(f"{what} {public(source)}: expected a file that ends in {' or '.join(ENDINGS)}")
    try:
        yield
    except UnreadableError as error:
        raise ConfigError(f"{what} {_detail(error, source)}") from error
    except TableError as error:
        raise ConfigError(f"{what} {public(source)}: {error}") from error


def _detail(error: UnreadableError, source: str) -> str:
    """What is wrong with a file, beginning with its name."""
    return error.detail if error.detail.startswith(public(source)) else f"{public(source)}: {error.detail}"


def _foreign(act: Callable[[], T]) -> T:
    """What a call into pyarrow gives, whatever it raises being one error."""
    try:
        return act()
    except UnreadableError:
        raise
    except Exception as error:
        raise TableError(f"cannot be read as Parquet ({public(first_line(error))})") from error


def _taken(column: pa.Array, places: Sequence[int]) -> list[Any]:
    return column.take(pa.array(places)).to_pylist()  # type: ignore[no-any-return]


def _check_tail(stream: BinaryIO) -> None:
    size = stream.seek(0, 2)
    stream.seek(max(0, size - 8))
    tail = stream.read(8)
    stream.seek(0)
    if not TAIL.fullmatch(tail):
        raise TableError("is not Parquet, or only the beginning of one: it does not end as every Parquet does")
    footer = int.from_bytes(tail[:4], "little")
    if footer > min(size, MAX_FOOTER_BYTES):
        raise TableError(f"its footer claims {footer} bytes in a file of {size}; at most {MAX_FOOTER_BYTES} are read")


def _with_text(table: pa.Table, names: Sequence[str]) -> pa.Table:
    for name in names:
        if name in table.column_names:
            place = table.column_names.index(name)
            table = table.set_column(place, name, _text(name, table.column(name)))
    return table


def _text(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        raise TableError(f"column {name} is {kind}: several values in a row; write the one to be read into a column of its own")
    if pa.types.is_nested(kind):
        raise TableError(f"column {name} is {kind}; expected text; write the field to be read into a column of its own")
    try:
        if pa.types.is_floating(kind):
            # Whole numbers that pandas made floats of, because some were missing, are written without a point.
            column = pc.if_else(pc.is_nan(column), None, column)
        column = column.cast(pa.large_string())
        # Files of other programs may hold what is no UTF-8 in a column that says it is text.
        column.validate(full=True)
        return column
    except Exception as error:
        raise TableError(f"column {name} is {kind}, which cannot be read as text ({first_line(error)})") from error


def _to_pandas(source: str, what: str, name: str, column: pa.ChunkedArray) -> pd.Series:
    try:
        return column.to_pandas()  # type: ignore[no-any-return]
    except Exception as error:
        detail = first_line(error)
        raise ConfigError(f"{what} {public(source)}: column {name} is {column.type}, cannot be read ({detail})") from error


def _numbers(column: pd.Series) -> pd.Series:
    """A column as numbers, if all of it are."""
    try:
        return pd.to_numeric(column)
    except (ValueError, TypeError):
        return column


def _plain(source: str) -> str:
    """A path as it is, and a URL without what is not part of its path."""
    return re.split("[?#]", source, maxsplit=1)[0] if "://" in source else source
