"""Where a table goes that a command is asked to write."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from raymia.errors import ConfigError, first_line
from raymia.run.storage import Storage, StorageError
from raymia.urls import public


def output_table(option: str, path: str, others: Sequence[str] = ()) -> tuple[Storage, str]:
    """The folder and the name of a table, tried before anything long is begun.

    Args:
        option: that names it, for errors.
        path: local path or fsspec URL of a Parquet file.
        others: paths that must not be overwritten.

    Raises:
        ConfigError: it is no name of a Parquet file, one of the others, or cannot be written.
    """
    if not path.lower().endswith(".parquet") or path in others:
        raise ConfigError(f"{option} {public(path)}: expected a name {'of its own ' if others else ''}that ends in .parquet")
    folder, name = posixpath.split(path)
    storage = Storage(folder or ".")
    try:
        storage.try_write()
    except (OSError, StorageError) as error:
        raise ConfigError(f"{option} {public(path)}: cannot be written ({first_line(error)})") from error
    return storage, name
