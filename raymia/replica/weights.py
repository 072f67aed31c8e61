"""Weights: one copy on each machine of a pipeline folder on object storage, and the parts loaded from it, safetensors alone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import fsspec
import platformdirs
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from raymia.errors import ConfigError, first_line

WANTED = (".json", ".txt", ".safetensors")
"""Endings of the files that are fetched: nothing that would have to be unpickled."""


def cache_folder() -> Path:
    """Where copies are kept; the environment variable RAYMIA_CACHE names another place."""
    return Path(os.environ.get("RAYMIA_CACHE") or platformdirs.user_cache_path("raymia")) / "models"


def fetch(url: str) -> Path:
    """The local copy of a pipeline folder at an fsspec URL, made by the first process on the machine that asks.

    Others wait for it behind a file lock. A copy is of one state of the folder, by its files' sizes and tags: where the
    folder changes, another copy is made.

    Raises:
        ConfigError: the folder cannot be listed or read, or holds nothing to load.
    """
    try:
        filesystem, root = fsspec.core.url_to_fs(url)
        listing = filesystem.find(root, detail=True)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"replica.model {url}: cannot be listed ({first_line(error)}); give a folder or a hub id") from error
    wanted = {path: facts for path, facts in sorted(listing.items()) if path.endswith(WANTED)}
    if not wanted:
        raise ConfigError(f"replica.model {url}: no {', '.join(WANTED)} files there; expected a folder in diffusers' layout")
    state = [(path, facts.get("size"), str(facts.get("ETag") or facts.get("mtime") or "")) for path, facts in wanted.items()]
    name = hashlib.sha256(json.dumps([url, state]).encode()).hexdigest()[:32]
    folder = cache_folder() / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            draft = Path(tempfile.mkdtemp(dir=folder.parent))
            try:
                for path in wanted:
                    target = draft / path[len(root) :].lstrip("/")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    filesystem.get_file(path, str(target))
            except OSError as error:
                shutil.rmtree(draft)
                raise ConfigError(f"replica.model {url}: cannot be fetched ({first_line(error)})") from error
            os.rename(draft, folder)
    return folder


def load_part(kind: Any, folder: Path, part: str, variant: str | None, **options: Any) -> Any:
    """A part of a pipeline folder, by diffusers' or transformers' own loader, from local safetensors only.

    Args:
        kind: class of the part.
        folder: of the pipeline.
        part: its folder.
        variant: of the weight files.
        options: of the loader, such as the dtype.

    Raises:
        ConfigError: weights that do not fit their config.
    """
    return _loaded(kind, folder, part, use_safetensors=True, variant=variant, **options)


def load_tokenizer(kind: Any, folder: Path, part: str = "tokenizer") -> Any:
    """A tokenizer of a pipeline folder, from its local files only.

    Raises:
        ConfigError: they cannot be read.
    """
    return _loaded(kind, folder, part)


def _loaded(kind: Any, folder: Path, part: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(folder / part, local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ConfigError(f"{folder}: cannot load {part}: {error}") from error


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ConfigError: it cannot be read as that.
    """
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{file}: not readable as safetensors ({error})") from error
