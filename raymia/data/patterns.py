"""Names of many files in one: braces and globs, counted before they are expanded, and bounded in number and time.

A path that is there is taken as it stands, whatever characters it holds. In an address, ``?`` before a name and ``=`` begins a
query and is no glob; in a web address it always does. A glob that finds nothing is never passed over in silence.
"""

from __future__ import annotations

import posixpath
import re
import time
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec
from braceexpand import alphabet, braceexpand
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from raymia.data.unreadable import UnreadableError, ask, in_time
from raymia.errors import ConfigError
from raymia.urls import public

MAX_FILES = 1_000_000
"""Files that the patterns of one manifest may name together."""
MAX_LISTED = 2_000_000
"""Files and folders that are looked at for one pattern."""
MAX_LISTING_S = 60.0
"""Seconds that looking for what matches one pattern may take."""
MAX_PATTERN = 4096
"""Characters of a pattern."""
MAX_NESTED = 50
"""Braces within braces."""
FOLDER_ENDING = ".tar"
"""A folder of this name is taken for a shard that cannot be read; other folders are no shards."""

_ESCAPED = re.compile(r"\[([*?[])\]")
_INTEGERS = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.-?(\d{1,18}))?")
_LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.-?(\d{1,18}))?")
_LONG = re.compile(r"-?\d+\.\.-?\d+(?:\.\.-?\d+)?|[A-Za-z]\.\.[A-Za-z]\.\.-?\d+")


def within(folder: str, path: str) -> str:
    """The path or URL that `path` means where it stands in a manifest.

    Args:
        folder: the manifest's folder, where relative paths start.
        path: a path or URL, which stays as it is where it is absolute.
    """
    if "://" in path or posixpath.isabs(path):
        return path
    scheme, mark, start = folder.rpartition("://")
    joined = posixpath.join(start, path)
    # Object stores know no "..", and names of theirs may hold what a file system would tidy away.
    return scheme + mark + (joined if mark and ".." not in path.split("/") else posixpath.normpath(joined))


def escaped(path: str) -> str:
    """The pattern that means this one path, whatever characters it holds."""
    if _is_chain(path):
        return re.sub(r"([\\{}])", r"\\\1", path)
    address, rest, query = _parts(path)
    special = r"[*[]" if query or _is_web(path) else r"[*?[]"
    return re.sub(r"([\\{}])", r"\\\1", address + re.sub(special, lambda found: f"[{found[0]}]", rest) + query)


def find(pattern: str, folder: str, room: int = MAX_FILES) -> list[str]:
    """The files that a pattern names, in the order of its braces and, for each, of their names.

    Args:
        pattern: a path or URL with {0000..0003} braces and ``*``, ``?``, ``[..]`` and ``**`` globs. A backslash takes its
            meaning from a brace, a comma or a backslash, and ``[*]``, ``[?]``, ``[[]`` are the characters themselves.
        folder: where relative paths start; no part of the pattern.
        room: how many files there may be.

    Raises:
        ConfigError: the braces are malformed, what they and the globs name is too much, a glob matches nothing, or it cannot be
            found out what is there. Says which limit.
    """
    if not pattern.strip():
        raise ConfigError("an empty path; name a file")
    if re.search(r"[\\{}*?[]", pattern) and _is_there(pattern, folder):
        return [within(folder, pattern)]
    found: list[str] = []
    for path in _expand(pattern, room):
        found += _find(path, folder)
        if len(found) > room:
            raise ConfigError(f"{public(pattern)}: names more than {room} files; name fewer")
    return found


def _find(path: str, folder: str) -> list[str]:
    if _is_chain(path):
        if re.search(r"[*[]", path.partition("::")[0]):
            raise ConfigError(f"{public(path)}: a chain of file systems cannot have globs; name each file")
        return [path]
    address, rest, query = _parts(path)
    if not _has_glob(path, _ESCAPED.sub("", rest)):
        return [within(folder, address + _ESCAPED.sub(r"\1", rest) + query)]
    first = next(i for i, part in enumerate(rest.split("/")) if _has_glob(path, part))
    plain, tail = rest.split("/")[:first], "/".join(rest.split("/")[first:])
    root = within(folder, address + ("/".join(plain) or ("/" if rest.startswith("/") and not address else "")))
    try:
        filesystem, start = ask(root, lambda: fsspec.core.url_to_fs(root or "."))
        deadline = time.monotonic() + MAX_LISTING_S
        found = ask(root, lambda: in_time(MAX_LISTING_S + 5.0, lambda: _matching(filesystem, start, tail, deadline)))
    except UnreadableError as error:
        raise ConfigError(f"{public(path)}: cannot be listed: {error.detail}") from error
    if not found:
        raise ConfigError(f"{public(path)}: matches no file (in {public(root)}); correct the pattern, or leave it out")
    return [str(filesystem.unstrip_protocol(name)) for name in found] if "://" in root else found


def _is_there(path: str, folder: str) -> bool:
    """Whether a file has the pattern's own characters in its name. Web servers may say so of anything, and are not asked."""
    place = within(folder, path)
    if _is_web(place) or _is_chain(place):
        return False
    try:
        filesystem, name = ask(place, lambda: fsspec.core.url_to_fs(place))
        return bool(ask(place, lambda: filesystem.exists(name)))
    except UnreadableError:
        return False


def _matching(filesystem: Any, root: str, pattern: str, deadline: float) -> list[str]:
    """The names below a folder that match a glob, in order."""
    matches = re.compile(glob_translate(pattern)).match
    start = len(root.rstrip("/")) + 1
    found = []
    for listed, (name, is_folder) in enumerate(_walk(filesystem, root, pattern.split("/")), start=1):
        if listed > MAX_LISTED or time.monotonic() > deadline:
            limit = f"{MAX_LISTED} files and folders" if listed > MAX_LISTED else f"{MAX_LISTING_S:g} s"
            raise UnreadableError("too_large", f"more than {limit} to look through; name the files more narrowly")
        if matches(name[start:]) and (not is_folder or name.endswith(FOLDER_ENDING)):
            found.append(name)
    return sorted(found)


def _walk(filesystem: Any, root: str, parts: list[str]) -> Iterator[tuple[str, bool]]:
    """What stands below a folder, as deep as a pattern's parts can match, and whether it is a folder."""
    waiting: list[tuple[str, int, tuple[Any, ...]]] = [(root, 0, ())]
    while waiting:
        folder, level, above = waiting.pop()
        here = _identity(filesystem, folder)
        if here is not None and here in above:
            continue  # a link to a folder that it stands in
        try:
            # Web servers list a folder by its name with a slash.
            entries = filesystem.ls(folder if "://" not in folder else folder.rstrip("/") + "/", detail=True)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            name = str(entry["name"]).rstrip("/")
            if name == folder.rstrip("/"):
                continue
            is_folder = _is_folder(filesystem, entry, name)
            yield name, is_folder
            if is_folder and _goes_deeper(parts, level, name.rsplit("/", 1)[-1]):
                waiting.append((name, level + 1, (*above, here)))


def _goes_deeper(parts: list[str], level: int, name: str) -> bool:
    """Whether something below a folder may match, given how deep it stands and its name."""
    if "**" in parts[: level + 1]:
        return True
    return level + 1 < len(parts) and fnmatchcase(name, parts[level])


def _is_folder(filesystem: Any, entry: dict[str, Any], name: str) -> bool:
    return entry.get("type") == "directory" or (isinstance(filesystem, LocalFileSystem) and Path(name).is_dir())


def _identity(filesystem: Any, folder: str) -> tuple[int, int] | None:
    if not isinstance(filesystem, LocalFileSystem):
        return None
    try:
        found = Path(folder).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _parts(path: str) -> tuple[str, str, str]:
    """The address of a URL up to its first slash, its path, and its query; a path has neither address nor query."""
    found = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]*", path)
    address = found[0] if found else ""
    rest = path[len(address) :]
    if not address:
        return "", rest, ""
    query = re.search(r"[?#]" if _is_web(path) else r"\?[\w.-]+=", rest)
    return (address, rest, "") if query is None else (address, rest[: query.start()], rest[query.start() :])


def _is_web(path: str) -> bool:
    return re.match("https?://", path, re.IGNORECASE) is not None


def _is_chain(path: str) -> bool:
    """Whether a file system stands within another's file, as in ``zip://a.tar::https://host/x.zip``."""
    return "::" in path and "://" in path and not _is_web(path)


def _has_glob(path: str, text: str) -> bool:
    return re.search(r"[*[]" if _is_web(path) else r"[*?[]", text) is not None


def _expand(pattern: str, room: int) -> Iterator[str]:
    try:
        if len(pattern) > MAX_PATTERN:
            raise ValueError(f"it has {len(pattern)} characters, more than {MAX_PATTERN}")
        count = _count(pattern, 0)
        if count > room:
            raise ValueError(f"its braces stand for {count} names, more than the {room} that are allowed; name fewer")
        yield from braceexpand(pattern)
    except ValueError as error:
        shown = public(pattern if len(pattern) <= 200 else f"{pattern[:200]}...")
        problem = "unbalanced braces; write \\{ and \\} for braces of a name" if "Unbalanced" in str(error) else str(error)
        raise ConfigError(f"{shown!r} is not a brace pattern: {problem}") from error


def _count(pattern: str, depth: int) -> int:
    """How many names a pattern's braces stand for, without making them; reads them as `braceexpand` does."""
    if depth > MAX_NESTED:
        raise ValueError(f"braces are nested more than {MAX_NESTED} deep")
    total, level, start = 1, 0, 0
    for position, character in _characters(pattern):
        if character == "{":
            start = position if level == 0 else start
            level += 1
        elif character == "}":
            level -= 1
            if level < 0:
                break
            if level == 0:
                total *= _alternatives(pattern[start + 1 : position], depth + 1)
    if level != 0:
        raise ValueError("Unbalanced braces")
    return total


def _alternatives(expression: str, depth: int) -> int:
    """How many alternatives stand between two braces."""
    integers, letters = _INTEGERS.fullmatch(expression), _LETTERS.fullmatch(expression)
    if integers is not None:
        return abs(int(integers[2]) - int(integers[1])) // (int(integers[3] or 1) or 1) + 1
    if letters is not None:
        ends = [alphabet.index(letter) for letter in letters.group(1, 2)]
        return abs(ends[1] - ends[0]) // (int(letters[3] or 1) or 1) + 1
    if _LONG.fullmatch(expression):
        raise ValueError("a range of numbers with more than 18 digits")
    level, commas = 0, []
    for position, character in _characters(expression):
        level += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and level == 0:
            commas.append(position)
    if level != 0 or not commas:
        return _count(expression, depth)
    edges = [-1, *commas, len(expression)]
    return sum(_count(expression[a + 1 : b], depth) for a, b in pairwise(edges))


def _characters(text: str) -> Iterator[tuple[int, str]]:
    """Characters with their places, but for backslashes and those that they take the meaning from."""
    position = 0
    while position < len(text):
        if text[position] == "\\":
            position += 2
            continue
        yield position, text[position]
        position += 1
