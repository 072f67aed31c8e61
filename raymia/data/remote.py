"""Reading of files at paths and fsspec URLs: one place where whatever goes wrong there becomes one error, with patience."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import fsspec

from raymia.errors import first_line
from raymia.urls import public


class UnreadableError(Exception):
    """A file that cannot be read.

    Attributes:
        reason: a short fixed word, such as ``missing`` or ``forbidden``.
        detail: what is wrong, in words for a person, without secrets.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Make the error; `reason` and `detail` are kept as attributes."""
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@contextmanager
def open_file(url: str) -> Iterator[BinaryIO]:
    """A stream of the file's bytes from their start, which can seek.

    Raises:
        UnreadableError: it cannot be opened, or, within the block, be read.
    """
    try:
        with fsspec.open(url, "rb") as stream:
            yield stream
    except FileNotFoundError as error:
        raise UnreadableError("missing", f"{public(url)}: no such file") from error
    except (OSError, ValueError, ImportError) as error:
        raise UnreadableError("unreadable", f"{public(url)}: {public(first_line(error))}") from error


def read_file(url: str, limit: int) -> bytes:
    """The contents of a file of at most `limit` bytes.

    Raises:
        UnreadableError: it cannot be read, or is larger.
    """
    with open_file(url) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise UnreadableError("too_large", f"{public(url)}: more than {limit} bytes")
    return content
