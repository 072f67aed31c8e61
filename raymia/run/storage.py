"""A folder at a local path or fsspec URL whose files appear whole or not at all, with patience for storage that fails."""

from __future__ import annotations

import hashlib
import io
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from raymia.data.patience import ATTEMPTS, DISK_FULL, may_pass, patiently
from raymia.data.unreadable import UnreadableError, ask
from raymia.errors import ConfigError, RaymiaError, first_line
from raymia.urls import public

T = TypeVar("T")

SINGLE_PUT = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "memory"}
"""File systems that show an object only when it is whole; on others a draft is renamed."""


HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
"""Stands for this machine in the names of drafts."""
BORN = time.time()
"""When this process began to use storage; an older draft under its number was left by another."""
DRAFT = re.compile(r"\.(.+)\.(?:([0-9a-f]{8})-)?(\d+)\Z")
"""The name of a draft: the file's, the machine's and the process's; earlier versions left the machine out."""


class StorageError(RaymiaError):
    """Storage failed for good; what was written before is whole and kept."""


class Storage:
    """Files by their names within one folder.

    Attributes:
        url: path or URL of the folder, without credentials.
        local: whether the folder is on a local file system.
        guard: is asked before anything is changed, and raises where this process may no longer write; it is told whether it
            must look anew, whatever it knew a moment ago. See `raymia.run.lock.RunLock`.
    """

    def __init__(self, url: str) -> None:
        """Point at a folder, which need not exist yet.

        Args:
            url: local path or fsspec URL.

        Raises:
            ConfigError: the URL's file system is unknown, not installed, or cannot be used as it is.
        """
        self.url = public(url)
        self.guard: Callable[[bool], None] | None = None
        # No listing may come from a cache: other processes write here too.
        options = {} if "://" not in url else {"use_listings_cache": False}
        try:
            self._fs, self._root = ask(url, lambda: fsspec.core.url_to_fs(url, **options))
        except UnreadableError as error:
            raise ConfigError(f"{error.detail}; give a local folder, or a URL of storage that fsspec can use here") from error
        self.local = isinstance(self._fs, LocalFileSystem)
        self._swept: set[str] = set()

    def path(self, name: str) -> str:
        """The path of a file within its file system."""
        return f"{self._root}/{name}"

    def make(self) -> None:
        """Make the folder.

        Raises:
            StorageError: the folder cannot be made.
        """
        self._patiently("make the folder", lambda: self._fs.makedirs(self._root, exist_ok=True))

    def try_write(self) -> None:
        """Make the folder and try a write.

        Raises:
            StorageError: the folder cannot be written.
        """
        self.make()
        self.write(".writable", b"")
        self.remove([".writable"])

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all, trying again where storage fails for the moment.

        Raises:
            StorageError: storage is full, refuses, or failed every time.
        """

        def put() -> None:
            self.check()
            self._put(name, content)

        self._patiently(f"write {name}", put)

    def check(self, anew: bool = False) -> None:
        """Ask the guard, if there is one, whether this process may still write.

        Raises:
            LostLeaseError: it may not; see `raymia.run.lock`.
        """
        if self.guard is not None:
            self.guard(anew)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a table as Parquet, whole or not at all; equal rows give equal bytes.

        Raises:
            StorageError: see `write`.
        """
        self.write(name, table_bytes(table))

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """A stream into a file that is there, whole, once the block has ended, and not at all if the block fails.

        For files that are too large to be held in memory: they grow on a local disk.

        Raises:
            StorageError: storage is full, refuses, or failed every time.
        """
        self.check()
        path = self.path(name)
        folder, base = path.rsplit("/", 1)
        if self.local:
            self._prepare(folder)
            draft = f"{folder}/{_draft(base)}"
        else:
            handle, draft = tempfile.mkstemp(prefix=f"{base}.")
            os.close(handle)
        try:
            with _lasting(draft) as stream:
                yield stream
            self.check()
            if self.local:
                os.replace(draft, path)
            else:
                self._patiently(f"write {name}", lambda: self._upload(draft, path))
        except OSError as error:
            raise StorageError(f"{self.url}: cannot write {name}: {self._reason(error)}") from error
        finally:
            _discard(draft)

    def read(self, name: str, limit: int | None = None) -> bytes | None:
        """A file's contents; none where there is no such file.

        Args:
            name: of the file.
            limit: a file of more bytes is refused.

        Raises:
            StorageError: storage failed every time, or the file is too large.
        """
        path = self.path(name)
        try:
            size = None if limit is None else self._patiently(f"read {name}", lambda: self._fs.size(path))
            if limit is not None and (size or 0) > limit:
                raise StorageError(f"{self.url}/{name}: {size} bytes, more than {limit}; it is no file that raymia wrote")
            content: bytes = self._patiently(f"read {name}", lambda: self._fs.cat_file(path))
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

        return list(self.sizes(folder, ending))

    def sizes(self, folder: str, ending: str) -> dict[str, int | None]:
        """Names as `names` gives them, with how many bytes each file has, where the file system knows.

        Raises:
            StorageError: storage failed every time.
        """
        below = self._listing(folder).items()
        return {name: size for name, size in sorted(below) if name.endswith(ending) and not _base(name).startswith(".")}

    def remove_drafts(self, folder: str) -> None:
        """Remove what processes that were killed left half-written below a folder, whichever machine they ran on.

        Only who alone may write there may ask; others' drafts would vanish under their hands.

        Raises:
            StorageError: storage failed every time.
        """
        names = self._listing(folder) if self.local or not _protocols(self._fs) & SINGLE_PUT else {}
        self.remove(name for name in names if DRAFT.match(_base(name)) or name.endswith(".draft"))

    def _listing(self, folder: str) -> dict[str, int | None]:
        def find() -> dict[str, Any]:
            try:
                return dict(self._fs.find(self.path(folder), detail=True))
            except FileNotFoundError:
                return {}

        start = len(self._root.rstrip("/")) + 1
        return {path[start:]: facts.get("size") for path, facts in self._patiently(f"list {folder}", find).items()}

    def _prepare(self, folder: str) -> None:
        """Make a folder on a local disk, and remove, once, the drafts of this machine's processes that are no more."""
        os.makedirs(folder, exist_ok=True)
        if folder in self._swept:
            return
        self._swept.add(folder)
        with os.scandir(folder) as entries:
            for entry in entries:
                found = DRAFT.match(entry.name)
                if found is not None and found[2] == HOST and _is_left(entry.path, int(found[3])):
                    _discard(entry.path)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are gone already do not matter.

        Raises:
            StorageError: storage failed every time.
        """
        for name in names:
            self._remove(name)

    def _remove(self, name: str) -> None:
        def remove() -> None:
            self.check()
            self._fs.rm_file(self.path(name))

        try:
            self._patiently(f"remove {name}", remove)
        except FileNotFoundError:
            return

    def _put(self, name: str, content: bytes) -> None:
        path = self.path(name)
        folder, base = path.rsplit("/", 1)
        draft = f"{folder}/{_draft(base)}"
        if self.local:
            self._prepare(folder)
            try:
                with _lasting(draft) as stream:
                    stream.write(content)
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
        try:
            return patiently(act)
        except (FileNotFoundError, RaymiaError):
            raise
        except Exception as error:
            raise StorageError(f"{self.url}: cannot {what}: {self._reason(error)}") from error

    @staticmethod
    def _reason(error: Exception) -> str:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return "storage is full; free space and run the same command again: what is committed is kept"
        first = first_line(error)
        tried = f" (tried {ATTEMPTS} times)" if may_pass(error) else ""
        return f"{public(first)}{tried}; what is committed is kept, and the same command goes on from there"


def table_bytes(table: pa.Table) -> bytes:
    """A table as Parquet; equal rows give equal bytes."""
    buffer = io.BytesIO()
    # One block of memory whatever the table was put together from, so that equal rows give equal bytes.
    pq.write_table(table.combine_chunks(), buffer, compression="zstd")
    return buffer.getvalue()


@contextmanager
def _lasting(path: str) -> Iterator[BinaryIO]:
    """A stream into a file whose content is on the disk, and not merely on its way there, once the block has ended."""
    with open(path, "wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def _draft(base: str) -> str:
    """The name under which a file is written until it is whole."""
    return f".{base}.{HOST}-{os.getpid()}"


def _base(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _is_left(path: str, process: int) -> bool:
    """Whether a draft of this machine belongs to no process any more."""
    try:
        if process == os.getpid():
            return Path(path).stat().st_mtime < BORN
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        return False
    return False


def _protocols(filesystem: Any) -> set[str]:
    protocol = filesystem.protocol
    return {protocol} if isinstance(protocol, str) else set(protocol)


def _local(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def _discard(path: str) -> None:
    Path(path).unlink(missing_ok=True)
