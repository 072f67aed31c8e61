"""Writing of tars with WebDataset's own writer: bytes in, and the same bytes out every time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import BinaryIO

from webdataset import TarWriter  # type: ignore[import-untyped]

MODE = 0o644
"""Permissions of every member; user and group are empty, and the time is that of the epoch."""


def write_tar(stream: BinaryIO, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> int:
    """Write samples one after another; return how many there were.

    Should `samples` fail, what is written so far ends like a whole tar: write to a stream that is then thrown away.

    Args:
        stream: takes the tar from start to end; it need not be seekable.
        samples: keys without a dot in their base name, and contents by extension.
    """
    count = 0
    # The writer's encoders would pickle objects; without them it takes bytes and nothing else.
    with TarWriter(stream, encoder=False, user="", group="", mode=MODE, mtime=0) as tar:
        for key, files in samples:
            tar.write({"__key__": key, **files})
            count += 1
    return count
