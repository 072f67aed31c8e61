"""What a command is asked to write: where that goes, that it is nothing that the command reads, and manifests."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence

from raymia.data.manifest import Manifest
from raymia.documents import write_yaml
from raymia.errors import ConfigError, first_line
from raymia.run.storage import Storage, StorageError
from raymia.urls import public

MANIFEST_FILE = "manifest.yaml"


def output_table(option: str, path: str, others: Sequence[str] = ()) -> tuple[Storage, str]:
    """The folder and the name of a table, tried before anything long is begun.

    Args:
        option: that names it, for errors.
        path: local path or fsspec URL of a Parquet file.
        others: paths that must not be overwritten, such as those that are read.

    Raises:
        ConfigError: it is no name of a Parquet file, one of the others, or cannot be written.
    """
    if not path.lower().endswith(".parquet"):
        raise ConfigError(f"{option} {public(path)}: expected a name that ends in .parquet")
    if any(same_place(path, other) for other in others):
        raise ConfigError(f"{option} {public(path)}: names what this command reads or writes already; give a name of its own")
    folder, name = posixpath.split(path)
    storage = Storage(folder or ".")
    try:
        storage.try_write()
    except (OSError, StorageError) as error:
        raise ConfigError(f"{option} {public(path)}: cannot be written ({first_line(error)})") from error
    return storage, name


def same_place(one: str, other: str) -> bool:
    """Whether two paths or URLs lead to one file or folder."""
    if "://" in one or "://" in other:
        return one == other
    return os.path.realpath(one) == os.path.realpath(other)


def write_manifest(out: Storage, manifest: Manifest) -> None:
    """Write a manifest as `manifest.yaml`, without the fields that say nothing."""
    content = manifest.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    out.write(MANIFEST_FILE, write_yaml(content).encode())
