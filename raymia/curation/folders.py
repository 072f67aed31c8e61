"""What stands in a folder that somebody points at: files in order, and a row for whatever is not one."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from raymia.data.droppings import FILES, FOLDERS, PREFIXES
from raymia.data.unreadable import UnreadableError, ask
from raymia.errors import ConfigError
from raymia.urls import public

PLAN_FILE = "pack.json"
"""What a data set is packed from, so that two are not mixed in one folder."""
SHARDS_FOLDER = "shards"
PROGRAMS_FOLDERS = frozenset({".git", ".svn", ".cache", ".ipynb_checkpoints", ".thumbnails"})
PROGRAMS_FILES = frozenset({".nomedia", ".picasa.ini"})
TRASH = ".trash-"
"""What the names of folders of thrown away files begin with, in lower case."""


@dataclass(frozen=True)
class Dropped:
    """What stands in a source and goes into no shard, as far as that is known before anything is packed.

    Attributes:
        source: the name by which the user knows it.
        stage: ``list`` for what is no image of the user's and counts as none, else the stage at which an image was lost.
        reason: a short fixed word.
        detail: what was found, in words for a person.
    """

    source: str
    stage: str
    reason: str
    detail: str


@dataclass
class Listing:
    """What a folder holds.

    Attributes:
        names: files that can be opened, below the folder, in order.
        dropped: what cannot be opened, is no file, or is a dropping of some system or program.
    """

    names: list[str] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)


def list_folder(source: str) -> Listing:
    """List a folder and the folders in it, those that links lead to once.

    Args:
        source: a local path or fsspec URL.

    Raises:
        ConfigError: it is no folder, or cannot be listed.
    """
    listing = _local(source, source) if "://" not in source else _elsewhere(source)
    listing = _without_packed(listing)
    listing.names.sort()
    listing.dropped.sort(key=lambda row: row.source)
    return listing


def _without_packed(listing: Listing) -> Listing:
    """The same without data sets of ours: one that is packed into the folder of its images does not grow by itself."""
    ours = {posixpath.dirname(name) for name in listing.names if posixpath.basename(name) == PLAN_FILE} - {""}
    packed = {folder for folder in ours if any(name.startswith(f"{folder}/{SHARDS_FOLDER}/") for name in listing.names)}
    if not packed:
        return listing
    within = tuple(f"{folder}/" for folder in packed)
    kept = [name for name in listing.names if not name.startswith(within)]
    rows = [row for row in listing.dropped if not row.source.startswith(within)]
    detail = "a data set that `raymia data pack` made; to pack it again, name it by itself"
    return Listing(kept, [*rows, *(Dropped(folder, "list", "packed_set", detail) for folder in within)])


def _local(source: str, path: str) -> Listing:
    if not Path(path).is_dir():
        raise _no_folder(source)
    try:
        return _Walk(path).listing
    except OSError as error:
        raise ConfigError(f"{public(source)}: cannot be listed ({error.strerror})") from error


def _elsewhere(source: str) -> Listing:
    """What an object store holds, whose droppings were copied there with the rest."""
    try:
        filesystem, root = ask(source, lambda: fsspec.core.url_to_fs(source))
        local = isinstance(filesystem, LocalFileSystem)
        paths = None if local else ask(source, lambda: filesystem.find(root) if filesystem.isdir(root) else None)
    except UnreadableError as error:
        raise ConfigError(f"cannot be listed: {error.detail}") from error
    if local:
        return _local(source, root)
    if paths is None:
        raise _no_folder(source)
    start = len(root.rstrip("/")) + 1
    names = [str(path)[start:] for path in paths]
    droppings = {name for name in names if _is_left(name)}
    return Listing([name for name in names if name not in droppings], [_dropping(name) for name in droppings])


def _no_folder(source: str) -> ConfigError:
    return ConfigError(f"{public(source)}: expected a folder, or a table that ends in .parquet or .csv")


class _Walk:
    """Goes through a local folder; links to folders are followed last, so that what they lead to has its own name."""

    def __init__(self, root: str) -> None:
        """Walk the folder at a path.

        Raises:
            OSError: it cannot be listed itself.
        """
        self.listing = Listing()
        self._root = Path(root)
        self._folders: deque[str] = deque()
        self._links: deque[str] = deque()
        self._seen = {_identity(self._root.stat())}
        self._enter("", self._entries(""))
        while self._folders or self._links:
            name = self._folders.popleft() if self._folders else self._links.popleft()
            try:
                if self._new(name):
                    self._enter(f"{name}/", self._entries(name))
            except OSError as error:
                self._drop(f"{name}/", "read", "unlistable_folder", str(error.strerror))

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        with os.scandir(self._root / folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)

    def _new(self, name: str) -> bool:
        """Whether a folder was not listed before, under another name."""
        identity = _identity((self._root / name).stat())
        if identity in self._seen:
            self._drop(f"{name}/", "list", "repeated_folder", "a link to a folder that is listed under its own name")
            return False
        self._seen.add(identity)
        return True

    def _enter(self, prefix: str, entries: list[os.DirEntry[str]]) -> None:
        for entry in entries:
            name = prefix + entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if _is_left_folder(entry.name) if is_folder else _is_left_file(entry.name):
                self.listing.dropped.append(_dropping(f"{name}/" if is_folder else name))
                continue
            try:
                if is_folder:
                    self._folders.append(name)
                    continue
                mode = entry.stat().st_mode
            except OSError as error:
                self._drop(name, "read", *_link_fault(error))
                continue
            if stat.S_ISDIR(mode):
                self._links.append(name)
            elif stat.S_ISREG(mode):
                self.listing.names.append(name)
            else:
                self._drop(name, "read", "not_a_file", f"expected a file, found {_kind(mode)}")

    def _drop(self, name: str, stage: str, reason: str, detail: str) -> None:
        self.listing.dropped.append(Dropped(name, stage, reason, detail))


def printable(name: str) -> str:
    """A name that any file may hold: bytes that are not UTF-8 are spelled out."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return name.encode("utf-8", "backslashreplace").decode()


def irregular(path: str) -> str | None:
    """What stands at a local path where a file was expected, and reading might never end; none for a file, or for nothing."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return None
    return None if stat.S_ISREG(mode) else _kind(mode)


def _is_left(name: str) -> bool:
    *folders, base = name.split("/")
    return _is_left_file(base) or any(_is_left_folder(folder) for folder in folders)


def _is_left_file(base: str) -> bool:
    """Whether a file is none that somebody meant to be there, by its name."""
    small = base.lower()
    return small in FILES or small in PROGRAMS_FILES or small.startswith(PREFIXES)


def _is_left_folder(base: str) -> bool:
    small = base.lower()
    return small in FOLDERS or small in PROGRAMS_FOLDERS or small.startswith(TRASH)


def _dropping(name: str) -> Dropped:
    return Dropped(name, "list", "dropping", "left there by a system or a program")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _link_fault(error: OSError) -> tuple[str, str]:
    if error.errno == errno.ELOOP:
        return "link_loop", "a link that leads to itself"
    if error.errno == errno.ENOENT:
        return "dangling_link", "a link to what is not there"
    return "unreadable", str(error.strerror)


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
    return kinds.get(stat.S_IFMT(mode), "a device")
