"""Where the bytes of a file come from, by their place: a local disk, or any file system that fsspec knows."""

from __future__ import annotations

import io
import stat
from abc import ABC, abstractmethod
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

from raymia.data.unreadable import RemoteLimits, UnreadableError, ask, in_time
from raymia.urls import public

BLOCK_BYTES = 2**20
"""Size of the pieces in which a file elsewhere is read."""
KEPT_BLOCKS = 16
"""Blocks that are kept for who goes back."""


class Source(ABC):
    """The bytes of a file, by their place."""

    @abstractmethod
    def read_at(self, position: int, size: int) -> bytes:
        """Between 1 and `size` bytes from a place on; none behind the end."""

    @abstractmethod
    def size(self) -> int:
        """How many bytes there are."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""


class Local(Source):
    """A file on a local disk."""

    def __init__(self, url: str, path: str, limits: RemoteLimits) -> None:
        self._url, self._path, self._limits = url, path, limits
        self._file = ask(url, self._open, limits)

    def _open(self) -> io.FileIO:
        # A pipe would be waited for, and a device may have no end.
        if not stat.S_ISREG(Path(self._path).stat().st_mode):
            raise UnreadableError("unreadable", f"{public(self._url)}: a folder, pipe or device, and no file")
        return open(self._path, "rb", buffering=0)

    def read_at(self, position: int, size: int) -> bytes:
        def read() -> bytes:
            self._file.seek(position)
            return self._file.read(size) or b""

        return ask(self._url, read, self._limits)

    def size(self) -> int:
        return ask(self._url, lambda: Path(self._path).stat().st_size, self._limits)

    def close(self) -> None:
        self._file.close()


class Elsewhere(Source):
    """A file elsewhere, read in blocks, of which the last few are kept."""

    def __init__(self, url: str, limits: RemoteLimits) -> None:
        self.url, self.limits = url, limits
        self.length: int | None = None
        """How many bytes there are, once that is known."""
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        try:
            self._block(0)
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def fetch(self, position: int, got: bytearray) -> None:
        """Add what follows to `got`, which holds what is there from `position` on, until it is a block or the file ends.

        It is called again after an error that may pass, with what it has got so far.
        """

    def read_at(self, position: int, size: int) -> bytes:
        number, start = divmod(position, BLOCK_BYTES)
        return self._block(number)[start : start + size]

    def _block(self, number: int) -> bytes:
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        got, position = bytearray(), number * BLOCK_BYTES
        if self.length is None or position < self.length:
            ask(self.url, lambda: self.fetch(position, got), self.limits)
        if max(self.length or 0, position + len(got)) > self.limits.max_bytes:
            raise UnreadableError("too_large", f"{public(self.url)}: more than {self.limits.max_bytes} bytes")
        self._blocks[number] = bytes(got)
        if len(self._blocks) > KEPT_BLOCKS:
            self._blocks.popitem(last=False)
        return self._blocks[number]

    def size(self) -> int:
        number = 0
        while self.length is None:
            if len(block := self._block(number)) < BLOCK_BYTES:
                return number * BLOCK_BYTES + len(block)
            number += 1
        return self.length


class Stored(Elsewhere):
    """A file on any file system that fsspec knows."""

    def __init__(self, url: str, filesystem: Any, path: str, limits: RemoteLimits) -> None:
        self._filesystem, self._path = filesystem, path
        self._stream: Any = None
        super().__init__(url, limits)

    def fetch(self, position: int, got: bytearray) -> None:
        if position + len(got) > self.limits.max_bytes:
            return
        stream, self._stream = self._stream, None
        # In a thread, as clients wait for each packet by itself, and some for ever.
        self._stream, rest = in_time(
            self.limits.idle_timeout_s, lambda: self._read(stream, position + len(got), BLOCK_BYTES - len(got))
        )
        got += rest

    def _read(self, stream: Any, position: int, size: int) -> tuple[Any, bytes]:
        stream = self._filesystem.open(self._path, "rb", block_size=BLOCK_BYTES) if stream is None else stream
        if stream.tell() != position:
            stream.seek(position)
        parts = []
        while size > 0 and (part := stream.read(size)):
            parts.append(part)
            size -= len(part)
        return stream, b"".join(parts)

    def size(self) -> int:
        if self.length is None:
            facts = ask(
                self.url, lambda: in_time(self.limits.idle_timeout_s, lambda: self._filesystem.info(self._path)), self.limits
            )
            self.length = facts.get("size")
        return super().size()

    def close(self) -> None:
        with suppress(Exception):  # what was read is read
            if self._stream is not None:
                self._stream.close()
