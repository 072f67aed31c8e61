"""A file system over a local folder that fails a third of its writes, or is full after some."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem


class FlakyStorage(AbstractFileSystem):
    """``flaky:///folder``; RAYMIA_TEST_STORAGE is ``third``, or ``full:N`` for no space left after N writes."""

    protocol = "flaky"
    cachable = False
    _random = random.Random(0)  # noqa: S311 - which writes fail is no secret
    _written = 0

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self._local = LocalFileSystem(auto_mkdir=True)
        self._mode, _, limit = os.environ["RAYMIA_TEST_STORAGE"].partition(":")
        self._limit = int(limit or 0)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: object) -> None:
        if self._mode == "third" and FlakyStorage._random.random() < 1 / 3:
            Path(path).with_suffix(".torn").write_bytes(value[: len(value) // 2])
            raise OSError(errno.EIO, "the storage failed")
        if self._mode == "full":
            FlakyStorage._written += 1
            if FlakyStorage._written > self._limit:
                raise OSError(errno.ENOSPC, "no space left on device")
        self._local.pipe_file(path, value)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: object) -> bytes:
        return self._local.cat_file(path, start, end)

    def ls(self, path: str, detail: bool = True, **_: object) -> list:
        return self._local.ls(path, detail)

    def info(self, path: str, **_: object) -> dict:
        return self._local.info(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self._local.makedirs(path, exist_ok=exist_ok)

    def rm_file(self, path: str) -> None:
        self._local.rm_file(path)

    def mv(self, path1: str, path2: str, **_: object) -> None:
        os.replace(path1, path2)
