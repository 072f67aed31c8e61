"""Pipeline folders on object storage: one copy of each on a machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import platformdirs
from filelock import FileLock

from raymia.errors import ConfigError, first_line
from raymia.urls import public

WANTED = (".json", ".txt", ".model", ".safetensors")
"""Endings of the files that are fetched: nothing that would have to be unpickled."""
MAX_FILES, MAX_GIB = 500, 300
"""Of one folder; the largest pipelines in use have about 80 files of 130 GiB."""


def cache_folder() -> Path:
    """Where copies are kept; the environment variable RAYMIA_CACHE names another place."""
    return Path(os.environ.get("RAYMIA_CACHE") or platformdirs.user_cache_path("raymia")) / "models"


def fetch(url: str) -> Path:
    """The local copy of a pipeline folder at an fsspec URL, made by the first process on the machine that asks.

    Others wait for it behind a file lock. A copy is of one state of the folder, by its files' sizes and tags: where the
    folder changes, another copy is made.

    Raises:
        ConfigError: the folder cannot be listed or read, holds nothing to load, or more than a model has.
    """
    filesystem, root, listing = _listed(url)
    wanted = {path: facts for path, facts in sorted(listing.items()) if path.endswith(WANTED)}
    _check_bounds(url, wanted)
    places = {path: _place(url, root, path) for path in wanted}
    state = [(path, facts.get("size"), str(facts.get("ETag") or facts.get("mtime") or "")) for path, facts in wanted.items()]
    name = hashlib.sha256(json.dumps([url, state]).encode()).hexdigest()[:32]
    folder = cache_folder() / name
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                _copy(filesystem, url, {path: (place, wanted[path].get("size")) for path, place in places.items()}, folder)
    except OSError as error:
        raise ConfigError(
            f"replica.model {public(url)}: {folder.parent} cannot hold a copy ({first_line(error)}); set RAYMIA_CACHE"
        ) from error
    return folder


def _listed(url: str) -> tuple[Any, str, dict[str, dict[str, Any]]]:
    """The file system of a URL, the folder's path there, and its files with what is known of each."""
    try:
        filesystem, root = fsspec.core.url_to_fs(url)
        return filesystem, root, dict(filesystem.find(root, detail=True))
    except Exception as error:
        # Whatever a client of a file system raises, here and below.
        raise ConfigError(
            f"replica.model {public(url)}: cannot be listed ({_said(error)}); give a folder in diffusers' layout or a hub id"
        ) from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {public(first_line(error))}"


def _check_bounds(url: str, wanted: dict[str, dict[str, Any]]) -> None:
    if not wanted:
        raise ConfigError(
            f"replica.model {public(url)}: no {', '.join(WANTED)} files there; expected a folder in diffusers' layout"
        )
    if len(wanted) > MAX_FILES:
        raise ConfigError(
            f"replica.model {public(url)}: {len(wanted)} files, more than the {MAX_FILES} that a model may have; name the "
            "model's own folder"
        )
    gib = sum(int(facts.get("size") or 0) for facts in wanted.values()) / 2**30
    if gib > MAX_GIB:
        raise ConfigError(
            f"replica.model {public(url)}: {gib:.0f} GiB, more than the {MAX_GIB} GiB that a model may have; name the model's "
            "own folder"
        )


def _place(url: str, root: str, path: str) -> PurePosixPath:
    """Where a file goes within the copy; a key of object storage may be any text."""
    place = PurePosixPath(path[len(root) :].lstrip("/"))
    if not path.startswith(root) or place.is_absolute() or ".." in place.parts or "\\" in str(place) or "\0" in str(place):
        raise ConfigError(f"replica.model {public(url)}: holds a file {path!r}, whose name leads elsewhere; rename it")
    return place


def _copy(filesystem: Any, url: str, wanted: dict[str, tuple[PurePosixPath, int | None]], folder: Path) -> None:
    """Copy files into a folder, which is there only once it is whole."""
    draft = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        for path, (place, size) in wanted.items():
            target = draft / place
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                filesystem.get_file(path, str(target))
            except Exception as error:
                raise ConfigError(f"replica.model {public(url)}: {place} cannot be fetched ({_said(error)})") from error
            if size is not None and target.stat().st_size != size:
                found = target.stat().st_size
                raise ConfigError(
                    f"replica.model {public(url)}: {place} has {found} bytes, but the listing says {size}; try again"
                )
        os.rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
