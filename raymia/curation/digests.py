"""Digests of image files as tables hold them: digits or bytes."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from raymia.data.tables import text_of

SIZES = {"sha256": 64, "md5": 32}
"""Hexadecimal digits of a digest."""


def digest_texts(kind: str, column: pa.Array) -> pa.Array:
    """The digests in a column as text in lower case, whether they stand there as digits or as bytes.

    Args:
        kind: one of `SIZES`.
        column: text or bytes.

    Raises:
        TableError: it is neither.
    """
    column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    if pa.types.is_fixed_size_binary(column.type):
        column = column.cast(pa.binary())
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return pa.array([_digits(value, SIZES[kind]) for value in column.to_pylist()], pa.large_string())
    return pc.utf8_lower(pc.utf8_trim_whitespace(text_of(kind, column)))


def _digits(value: bytes | None, size: int) -> str | None:
    """The digits of a digest that stands there as bytes, or as text in bytes."""
    if value is None:
        return None
    return value.hex() if 2 * len(value) == size else value.decode("ascii", "replace").strip().lower()
