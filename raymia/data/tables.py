"""Plain tables that users bring: Parquet or CSV at a path or fsspec URL, with the columns that are needed."""

from __future__ import annotations

from collections.abc import Sequence

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from raymia.errors import ConfigError, first_line

ENDINGS = (".parquet", ".csv")
"""Endings of the files that are taken for tables."""


def is_table(source: str) -> bool:
    """Whether a path or URL names a table, by its ending."""
    return source.lower().endswith(ENDINGS)


def read_table(source: str, required: Sequence[str], what: str, others: bool = True) -> pd.DataFrame:
    """Read a table.

    Args:
        source: path or URL ending in ``.parquet`` or ``.csv``.
        required: columns that must be there; of a CSV they are read as text.
        what: what errors call the table.
        others: whether to read the columns that are not required, too; a large Parquet is read faster without.

    Raises:
        ConfigError: the table cannot be read, or a column is missing.
    """
    if not is_table(source):
        raise ConfigError(f"{what} {source}: expected a file that ends in {' or '.join(ENDINGS)}")
    try:
        with fsspec.open(source, "rb") as stream:
            if source.lower().endswith(".parquet"):
                table = _read_parquet(stream, None if others else required)
            else:
                table = _read_csv(stream, required)
    except FileNotFoundError as error:
        raise ConfigError(f"{what} {source}: no such file") from error
    except (OSError, ValueError, ImportError, pa.ArrowException) as error:
        raise ConfigError(f"{what} {source}: cannot be read ({first_line(error)})") from error
    missing = [name for name in required if name not in table]
    if missing:
        raise ConfigError(f"{what} {source}: no column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}")
    return table


def _read_parquet(stream: object, columns: Sequence[str] | None) -> pd.DataFrame:
    file = pq.ParquetFile(stream)
    names = file.schema_arrow.names
    if columns is None or set(columns) <= set(names):
        return file.read(columns).to_pandas()  # type: ignore[no-any-return]
    return file.schema_arrow.empty_table().to_pandas()  # type: ignore[no-any-return]


def _read_csv(stream: object, as_text: Sequence[str]) -> pd.DataFrame:
    # A caption may be the word "null" or "NA", a key may be 0003: only an empty field is empty, and these stay text.
    kinds = dict.fromkeys(as_text, str)
    return pd.read_csv(stream, keep_default_na=False, na_values=[""], dtype=kinds)  # type: ignore[call-overload, no-any-return]
