"""Reading of files at paths and fsspec URLs: one place where whatever goes wrong there becomes one error, with patience.

A file elsewhere is read in blocks, each once where it is read in order. What fails for the moment is tried again at the same
byte, and every block has its time. A web server that cannot give a part of a file, or does not say how long it is, is read as a
stream into a temporary file, so that callers can go back.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from raymia.data.sources import Local, Source, Stored
from raymia.data.unreadable import LIMITS, REASONS, RemoteLimits, UnreadableError, ask
from raymia.data.web import Web
from raymia.urls import public

__all__ = ["LIMITS", "REASONS", "RemoteLimits", "UnreadableError", "ask", "open_file", "read_file"]

BUFFER_BYTES = 2**18
"""Bytes that a stream holds for small reads."""


@contextmanager
def open_file(url: str, limits: RemoteLimits = LIMITS) -> Iterator[BinaryIO]:
    """A stream of the file's bytes from their start, which can seek.

    What the block itself raises passes as it is.

    Raises:
        UnreadableError: it cannot be opened, or, within the block, be read.
    """
    raw = _Raw(_source(url, limits))
    with io.BufferedReader(raw, BUFFER_BYTES) as stream:
        yield cast(BinaryIO, stream)


def read_file(url: str, limit: int, limits: RemoteLimits = LIMITS) -> bytes:
    """The contents of a file of at most `limit` bytes.

    Raises:
        UnreadableError: it cannot be read, or is larger.
    """
    with open_file(url, limits) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise UnreadableError("too_large", f"{public(url)}: more than {limit} bytes")
    return content


class _Raw(io.RawIOBase):
    """A source as a stream."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: lambda: 0, io.SEEK_CUR: lambda: self._position, io.SEEK_END: self._source.size}[whence]()
        if start + offset < 0:
            raise ValueError(f"negative place {start + offset}")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        content = self._source.read_at(self._position, len(view))
        view[: len(content)] = content
        self._position += len(content)
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


def _source(url: str, limits: RemoteLimits) -> Source:
    """The source behind a URL, open."""
    if _is_web(url):
        return Web(url, limits)
    if "://" not in url:
        # Names of a local disk's files may hold what fsspec takes for a chain of file systems.
        return Local(url, ask(url, lambda: str(Path(url).expanduser()), limits), limits)
    filesystem, path = ask(url, lambda: fsspec.core.url_to_fs(url), limits)
    if isinstance(filesystem, LocalFileSystem):
        return Local(url, path, limits)
    try:
        return Stored(url, filesystem, path, limits)
    except UnreadableError as error:
        innermost = url.rpartition("::")[2]
        if error.reason == "missing" and innermost != url and _is_web(innermost):
            # fsspec's caches say so whatever the server says.
            Web(innermost, limits).close()
        raise


def _is_web(url: str) -> bool:
    return re.match("https?://", url, re.IGNORECASE) is not None
