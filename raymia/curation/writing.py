"""Writing of tars with WebDataset's own writer: bytes in, and the same bytes out every time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO, cast

from webdataset import TarWriter  # type: ignore[import-untyped]

from raymia.curation.samples import Packed

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


def write_shard(stream: BinaryIO, packed: Iterable[Packed]) -> dict[str, Any]:
    """Write a tar of images with their captions and what is said of them; return its number of samples and its digest."""
    digest = hashlib.sha256()
    samples = write_tar(cast(BinaryIO, _Tee(stream, digest)), ((sample.key, _members(sample)) for sample in packed))
    return {"samples": samples, "sha256": digest.hexdigest()}


def _members(sample: Packed) -> dict[str, bytes]:
    facts = json.dumps({"caption": sample.caption, "source": sample.source, **sample.facts}, ensure_ascii=False)
    return {sample.extension: sample.content, "txt": sample.caption.encode(), "json": facts.encode()}


class _Tee:
    """A stream that takes the digest of what goes through it."""

    def __init__(self, stream: BinaryIO, digest: Any) -> None:
        """Pass what is written on to `stream`, and to `digest` of hashlib."""
        self._stream = stream
        self._digest = digest

    def write(self, content: bytes) -> int:
        self._digest.update(content)
        return self._stream.write(content)
