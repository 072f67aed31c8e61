"""What identifies files by their contents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from raymia.errors import ConfigError


def file_digest(file: Path) -> str:
    """sha256 of a file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error})") from error


def files_digest(folder: Path, files: Iterable[Path]) -> str:
    """sha256 over the names and contents of files below a folder, whatever their order.

    Raises:
        ConfigError: one cannot be read.
    """
    digest = hashlib.sha256()
    for file in sorted(files):
        content = file_digest(file)
        digest.update(f"{file.relative_to(folder).as_posix()}\0{content}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()
