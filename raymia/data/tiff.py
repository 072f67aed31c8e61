"""The first directory of a TIFF file, and of an EXIF block, which is one: read without following what it points at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ORIENTATION = 274
PREFIXES = tuple(order + version for order in (b"II", b"MM") for version in (b"\x2a\0", b"\0\x2a", b"\x2b\0", b"\0\x2b"))
"""What a file begins with: byte order, then 42, or 43 where offsets have 64 bits."""
WHOLE_NUMBERS = {1: (1, False), 3: (2, False), 4: (4, False), 6: (1, True), 8: (2, True), 9: (4, True), 16: (8, False)}
"""Size in bytes of a value, and whether it has a sign, by the number that TIFF gives to types of whole numbers."""


@dataclass(frozen=True)
class Entry:
    """One entry of a directory.

    Attributes:
        tag: what it says.
        kind: type of its values, by TIFF's number.
        count: how many values it announces.
        raw: the entry's bytes as they stand in the file.
        value: its first value where that is a whole number that stands in the entry; none otherwise.
    """

    tag: int
    kind: int
    count: int
    raw: bytes
    value: int | None


@dataclass(frozen=True)
class Directory:
    """The first directory of a file.

    Attributes:
        offset: where it stands.
        entries: as far as the file holds them.
        order: order of the bytes of numbers.
        wide: whether offsets have 64 bits, as in BigTIFF.
    """

    offset: int
    entries: tuple[Entry, ...]
    order: Literal["little", "big"]
    wide: bool

    def packed(self, entries: tuple[Entry, ...]) -> bytes:
        """A directory of these entries alone, after which there is no other."""
        count = len(entries).to_bytes(8 if self.wide else 2, self.order)
        return count + b"".join(entry.raw for entry in entries) + bytes(8 if self.wide else 4)


def first_directory(content: bytes) -> Directory | None:
    """The first directory; none where there is none.

    Args:
        content: a TIFF file, or an EXIF block without its ``Exif`` mark.
    """
    if not content.startswith(PREFIXES):
        return None
    order: Literal["little", "big"] = "little" if content.startswith(b"II") else "big"
    wide = 43 in content[2:4]
    word = 8 if wide else 4
    offset = int.from_bytes(content[word : 2 * word], order)
    start = offset + (8 if wide else 2)
    if start > len(content):
        return None
    count = int.from_bytes(content[offset:start], order)
    size = 4 + 2 * word
    whole = min(count, (len(content) - start) // size)
    raws = (content[start + i * size : start + (i + 1) * size] for i in range(whole))
    return Directory(offset, tuple(_entry(raw, order, word) for raw in raws), order, wide)


def orientation_in(content: bytes) -> int | None:
    """EXIF's orientation, from 1 to 8, or 1 where it is something else; none where nothing is said of it."""
    directory = first_directory(content)
    found = [entry.value for entry in directory.entries if entry.tag == ORIENTATION] if directory else []
    if not found:
        return None
    return found[-1] if found[-1] is not None and 1 <= found[-1] <= 8 else 1


def _entry(raw: bytes, order: Literal["little", "big"], word: int) -> Entry:
    tag, kind, count = (int.from_bytes(raw[a:b], order) for a, b in ((0, 2), (2, 4), (4, 4 + word)))
    size, signed = WHOLE_NUMBERS.get(kind, (0, False))
    inside = size and count == 1 and size <= word
    value = int.from_bytes(raw[4 + word : 4 + word + size], order, signed=signed) if inside else None
    return Entry(tag, kind, count, raw, value)
