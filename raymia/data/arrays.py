"""NumPy's files of vectors, as embeddings of large lists come: read some rows at a time, and nothing in them is unpickled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from raymia.data.delimited import TableError
from raymia.data.remote import UnreadableError, open_file
from raymia.errors import ConfigError, first_line
from raymia.urls import public

MAX_WIDTH = 2**16
"""Numbers of a vector; no model makes more."""
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
"""Readers of the header, by the version of the format."""


def vectors_shape(source: str) -> tuple[int, int]:
    """Rows and width of a file of vectors.

    Raises:
        ConfigError: it cannot be read, or holds no vectors, or not all that it announces.
    """
    try:
        with open_file(source) as stream:
            return _header(stream)[:2]
    except (UnreadableError, TableError) as error:
        raise _named(source, error) from error


def vector_batches(source: str, rows: int) -> Iterator[NDArray[np.float32]]:
    """The vectors of a file, at most that many at a time, each batch (rows, width).

    Raises:
        ConfigError: see `vectors_shape`.
    """
    try:
        with open_file(source) as stream:
            count, width, kind = _header(stream)
            for start in range(0, count, rows):
                size = min(rows, count - start) * width * kind.itemsize
                content = stream.read(size)
                if len(content) < size:
                    raise TableError(f"ends within the vectors behind row {start}")
                yield np.frombuffer(content, kind).reshape(-1, width).astype(np.float32)
    except (UnreadableError, TableError) as error:
        raise _named(source, error) from error


def _header(stream: BinaryIO) -> tuple[int, int, np.dtype[np.generic]]:
    """Rows, width and kind of number; the stream then stands at the first vector."""
    try:
        version = npy.read_magic(stream)
        shape, by_columns, kind = HEADERS[version](stream)
    except UnreadableError:
        raise
    except Exception as error:
        raise TableError(f"is no file of numpy's that can be read ({public(first_line(error))})") from error
    if kind.kind != "f" or len(shape) != 2 or (by_columns and min(shape) > 1):
        order = "columns" if by_columns else "rows"
        raise TableError(f"holds {kind} of shape {shape}, by {order}; expected vectors of floats, (rows, width), by rows")
    count, width = shape
    if not 0 < width <= MAX_WIDTH:
        raise TableError(f"holds vectors of {width} numbers; expected 1 to {MAX_WIDTH}")
    start = stream.tell()
    there = stream.seek(0, 2) - start
    stream.seek(start)
    if there < count * width * kind.itemsize:
        raise TableError(f"announces {count} vectors of {width} numbers, and has {there} bytes for them: it breaks off")
    return count, width, kind


def _named(source: str, error: Exception) -> ConfigError:
    detail = str(error)
    return ConfigError(f"embeddings {detail if detail.startswith(public(source)) else f'{public(source)}: {detail}'}")
