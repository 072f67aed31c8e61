"""A folder at a local path or fsspec URL whose files appear whole or not at all, with patience for storage that fails."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from raymia.errors import RaymiaError, first_line
from raymia.urls import public

T = TypeVar("T")

ATTEMPTS = 6
FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 20.0
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the operating system's errors that mean that storage is full."""
LASTING_NUMBERS = (*DISK_FULL, errno.EROFS, errno.ENAMETOOLONG, errno.EFBIG)
"""Numbers of the operating system's errors that another try cannot mend."""
LASTING_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
"""Errors that another try cannot mend."""
CLIENT_LIBRARIES = ("aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "requests", "urllib3")
"""Libraries whose errors, where they are no OSError, are those of a connection."""
SINGLE_PUT = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "memory"}
"""File systems that show an object only when it is whole; on others a draft is renamed."""


class StorageError(RaymiaError):
    """Storage failed for good; what was written before is whole and kept."""


class Storage:
    """Files by their names within one folder.

    Attributes:
        url: path or URL of the folder, without credentials.
        local: whether the folder is on a local file system.
    """

    def __init__(self, url: str) -> None:
        """Point at a folder, which need not exist yet.

        Args:
            url: local path or fsspec URL.

        Raises:
            ValueError, ImportError: the URL's file system is unknown or not installed.
        """
        self.url = public(url)
        # No listing may come from a cache: other processes write here too.
        options = {} if "://" not in url else {"use_listings_cache": False}
        self._fs, self._root = fsspec.core.url_to_fs(url, **options)
        self.local = isinstance(self._fs, LocalFileSystem)

    def path(self, name: str) -> str:
        """The path of a file within its file system."""
        return f"{self._root}/{name}"

    def make(self) -> None:
        """Make the folder.

        Raises:
            OSError, ValueError: the folder cannot be made.
        """
        self._fs.makedirs(self._root, exist_ok=True)

    def try_write(self) -> None:
        """Make the folder and try a write.

        Raises:
            OSError, ValueError, StorageError: the folder cannot be written.
        """
        self.make()
        self.write(".writable", b"")
        self.remove([".writable"])

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all, trying again where storage fails for the moment.

        Raises:
            StorageError: storage is full, refuses, or failed every time.
        """
        self._patiently(f"write {name}", lambda: self._put(name, content))

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a table as Parquet, whole or not at all; equal rows give equal bytes.

        Raises:
            StorageError: see `write`.
        """
        buffer = io.BytesIO()
        # One block of memory whatever the table was put together from, so that equal rows give equal bytes.
        pq.write_table(table.combine_chunks(), buffer, compression="zstd")
        self.write(name, buffer.getvalue())

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """A stream into a file that is there, whole, once the block has ended, and not at all if the block fails.

        For files that are too large to be held in memory: they grow on a local disk.

        Raises:
            StorageError: storage is full, refuses, or failed every time.
        """
        path = self.path(name)
        folder, base = path.rsplit("/", 1)
        if self.local:
            os.makedirs(folder, exist_ok=True)
            draft = f"{folder}/.{base}.{os.getpid()}"
        else:
            handle, draft = tempfile.mkstemp(prefix=f"{base}.")
            os.close(handle)
        try:
            with open(draft, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            if self.local:
                os.replace(draft, path)
            else:
                self._patiently(f"write {name}", lambda: self._upload(draft, path))
        except OSError as error:
            raise StorageError(f"{self.url}: cannot write {name}: {self._reason(error)}") from error
        finally:
            _discard(draft)

    def read(self, name: str) -> bytes | None:
        """A file's contents; none where there is no such file.

        Raises:
            StorageError: storage failed every time.
        """
        try:
            content: bytes = self._patiently(f"read {name}", lambda: self._fs.cat_file(self.path(name)))
        except FileNotFoundError:
            return None
        return content

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        """The contents of many files in the order of `names`, read at once where the file system can.

        Raises:
            StorageError: storage failed every time, or a file is not there.
        """
        if not names:
            return []
        paths = [self.path(name) for name in names]
        contents = self._patiently("read", lambda: self._fs.cat(paths) if not self.local else {p: _local(p) for p in paths})
        return [contents[path] for path in paths]

    def names(self, folder: str, ending: str) -> list[str]:
        """Names of the files below `folder` with that ending, in order; drafts are left out.

        Raises:
            StorageError: storage failed every time.
        """

        def find() -> list[str]:
            try:
                return list(self._fs.find(self.path(folder)))
            except FileNotFoundError:
                return []

        start = len(self._root.rstrip("/")) + 1
        below = (path[start:] for path in self._patiently(f"list {folder}", find))
        return sorted(name for name in below if name.endswith(ending) and not name.rsplit("/", 1)[-1].startswith("."))

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are gone already do not matter.

        Raises:
            StorageError: storage failed every time.
        """
        for name in names:
            try:
                self._patiently(f"remove {name}", partial(self._fs.rm_file, self.path(name)))
            except FileNotFoundError:
                continue

    def _put(self, name: str, content: bytes) -> None:
        path = self.path(name)
        folder, base = path.rsplit("/", 1)
        draft = f"{folder}/.{base}.{os.getpid()}"
        if self.local:
            os.makedirs(folder, exist_ok=True)
            try:
                with open(draft, "wb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
                os.replace(draft, path)
            except OSError:
                _discard(draft)
                raise
        elif _protocols(self._fs) & SINGLE_PUT:
            self._fs.pipe_file(path, content)
        else:
            self._fs.makedirs(folder, exist_ok=True)
            self._fs.pipe_file(draft, content)
            self._fs.mv(draft, path)

    def _upload(self, draft: str, path: str) -> None:
        self._fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        if _protocols(self._fs) & SINGLE_PUT:
            self._fs.put_file(draft, path)
        else:
            self._fs.put_file(draft, f"{path}.draft")
            self._fs.mv(f"{path}.draft", path)

    def _patiently(self, what: str, act: Callable[[], T]) -> T:
        wait = wait_exponential_jitter(initial=FIRST_WAIT_S, max=LONGEST_WAIT_S, jitter=FIRST_WAIT_S)
        retrying = Retrying(stop=stop_after_attempt(ATTEMPTS), wait=wait, retry=retry_if_exception(_may_pass), reraise=True)
        try:
            return retrying(act)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise StorageError(f"{self.url}: cannot {what}: {self._reason(error)}") from error

    @staticmethod
    def _reason(error: Exception) -> str:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return "storage is full; free space and run the same command again: what is committed is kept"
        first = first_line(error)
        tried = f" (tried {ATTEMPTS} times)" if _may_pass(error) else ""
        return f"{public(first)}{tried}; what is committed is kept, and the same command goes on from there"


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, LASTING_ERRORS):
        return False
    if isinstance(error, OSError):
        return error.errno not in LASTING_NUMBERS
    return type(error).__module__.partition(".")[0] in CLIENT_LIBRARIES


def _protocols(filesystem: Any) -> set[str]:
    protocol = filesystem.protocol
    return {protocol} if isinstance(protocol, str) else set(protocol)


def _local(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def _discard(path: str) -> None:
    Path(path).unlink(missing_ok=True)
