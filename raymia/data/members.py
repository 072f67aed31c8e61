"""The members of a tar, header by header, from bytes that may be anything: nothing is allocated on the word of a header."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from raymia.data.remote import UnreadableError
from raymia.errors import first_line
from raymia.urls import public

HEADER_BYTES = tarfile.BLOCKSIZE
"""Size of a header, and of the blocks that a tar is made of."""
MAX_EXTENSION_BYTES = 2**20
"""Long names and PAX records of a member that are longer are not read."""
MAX_EXTENSIONS = 16
"""Headers that may stand before a member's own."""
MAX_SPARSE_BLOCKS = 1000
"""Blocks that a member's map of holes may take."""
MAX_NAME_BYTES = 4096
"""No file system has longer names."""
PADDING_CHUNK_BYTES = 2**16
EXTENSIONS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
"""Types of headers that say more about the member after them."""
RECORD = re.compile(rb"(\d{1,20}) ([^=\n]+)=")
"""The start of a PAX record: its length and its name."""
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z",
}
"""What compressed files begin with."""
PAGES = (b"<!doctype", b"<html", b"<?xml", b"{")
"""What servers' messages begin with, in lower case."""


class BrokenTarError(Exception):
    """A tar cannot be read further.

    Attributes:
        reason: a short fixed word, such as ``truncated_shard``.
        detail: what is wrong, in words for a person.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Make the error; `reason` and `detail` are kept as attributes."""
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class ReadLimits:
    """How much is read of a shard before it is given up; all that a header announces is held against these first.

    Attributes:
        max_shard_bytes: of a whole shard.
        max_members: headers in a shard.
        max_joined_members: members that may follow when those of one sample do not stand together; in a larger shard they must.
        max_image_bytes: of a member that is an image; a larger one is not read.
        max_text_bytes: of a member that may hold a caption; a larger one is not read.
    """

    max_shard_bytes: int = 2**36
    max_members: int = 2_000_000
    max_joined_members: int = 200_000
    max_image_bytes: int = 2**28
    max_text_bytes: int = 2**20


SHARD_LIMITS = ReadLimits()
"""The limits where none are given."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a tar, as its headers describe it.

    Attributes:
        name: as it stands there; bytes that are not UTF-8 are spelled out.
        size: of its content, in bytes.
        offset: where its first header begins.
        content: where its content begins.
        following: where the next header begins.
        is_file: whether it is an ordinary file; a folder, link, device or file with holes is not.
        is_folder: whether it is a folder.
    """

    name: str
    size: int
    offset: int
    content: int
    following: int
    is_file: bool
    is_folder: bool


@dataclass
class _Extended:
    """What headers before a member's own say of it; the first that says something counts."""

    name: bytes | None = None
    size: int | None = None
    sparse: bool = False


class TarStream:
    """Reads a tar from a stream that can seek.

    Attributes:
        reached: position up to which it could be read.
    """

    def __init__(self, stream: BinaryIO, limits: ReadLimits) -> None:
        """Point at a stream; nothing is read yet."""
        self.reached = 0
        self._stream = stream
        self._limits = limits
        self._position: int | None = None

    def members(self, start: int = 0) -> Iterator[Member]:
        """Every member from the header at `start` on, also of tars that were put one behind another.

        Raises:
            BrokenTarError: the tar cannot be read to its end, or what follows its end mark is no tar.
        """
        offset, count, ended = start, 0, False
        while True:
            member = self._member(offset, ended)
            if member is None:
                after = self._behind_zeros(offset + HEADER_BYTES)
                if after is None:
                    return
                offset, ended = after, True
                continue
            ended = False
            count += 1
            if count > self._limits.max_members:
                raise BrokenTarError("oversized_shard", f"it has more than {self._limits.max_members} members")
            yield member
            offset = member.following

    def content(self, member: Member) -> bytes:
        """The content of a member, whose size must have been checked.

        Raises:
            BrokenTarError: it cannot be read, or ends early.
        """
        content = self._read(member.content, member.size)
        if len(content) < member.size:
            what = f"the data of {member.name!r} end after {len(content)} of {member.size} bytes"
            raise BrokenTarError("truncated_shard", what)
        return content

    def _member(self, first: int, ended: bool) -> Member | None:
        """The member whose first header stands at a position; none where an end mark stands there."""
        offset, extended = first, _Extended()
        for _ in range(MAX_EXTENSIONS):
            block = self._block(offset, ended and offset == first)
            if offset == first and not block.strip(b"\0"):
                return None
            header = _parsed(block, offset, ended and offset == first)
            if header.type == tarfile.XGLTYPE:
                # It is about all members that follow, and nothing that counts here can be said of all.
                offset = self._within(offset + HEADER_BYTES + _padded(header.size))
            elif header.type in EXTENSIONS:
                offset = self._extension(header, extended)
            else:
                return self._described(header, block, first, extended)
        raise _corrupt(first, f"more than {MAX_EXTENSIONS} headers for one member")

    def _extension(self, header: tarfile.TarInfo, extended: _Extended) -> int:
        """Take in what an extended header says; give the position behind it."""
        if header.size > MAX_EXTENSION_BYTES:
            raise _corrupt(header.offset, f"{header.size} bytes of names or records, more than {MAX_EXTENSION_BYTES}")
        start = header.offset + HEADER_BYTES
        data = self._read(start, header.size)
        if len(data) < header.size:
            raise BrokenTarError("truncated_shard", f"the file ends inside the header at byte {header.offset}")
        name: bytes | None = None
        if header.type == tarfile.GNUTYPE_LONGNAME:
            name = data.split(b"\0", 1)[0]
        elif header.type != tarfile.GNUTYPE_LONGLINK:
            name = self._records(header.offset, data, extended)
        if name is not None and len(name) > MAX_NAME_BYTES:
            raise _corrupt(header.offset, f"a name of {len(name)} bytes, more than {MAX_NAME_BYTES}")
        extended.name = name if extended.name is None else extended.name
        return start + _padded(header.size)

    def _records(self, offset: int, data: bytes, extended: _Extended) -> bytes | None:
        """Take in PAX records; give the name among them."""
        position, name = 0, None
        while record := RECORD.match(data, position):
            end = position + int(record[1])
            if not record.end() < end <= len(data) or data[end - 1] != ord("\n"):
                raise _corrupt(offset, "a record that ends where it cannot")
            value = data[record.end() : end - 1]
            if record[2] == b"path":
                name = value.rstrip(b"/")
            elif record[2] == b"size" and extended.size is None:
                if not re.fullmatch(rb"\d{1,20}", value):
                    raise _corrupt(offset, "a size that is no number")
                extended.size = int(value)
            elif record[2].startswith(b"GNU.sparse."):
                extended.sparse = True
            position = end
        if data[position:].strip(b"\0"):
            raise _corrupt(offset, "what should be a record is none")
        return name

    def _described(self, header: tarfile.TarInfo, block: bytes, first: int, extended: _Extended) -> Member:
        size = header.size if extended.size is None else extended.size
        start = header.offset + HEADER_BYTES
        if header.type == tarfile.GNUTYPE_SPARSE:
            start = self._behind_sparse_map(start, block[482])
        has_content = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
        name = header.name if extended.name is None else extended.name.decode("utf-8", "backslashreplace")
        return Member(
            name=name.rstrip("/") if header.isdir() else name,
            size=size,
            offset=first,
            content=start,
            following=self._within(start + (_padded(size) if has_content else 0)),
            is_file=header.isreg() and header.type != tarfile.GNUTYPE_SPARSE and not extended.sparse,
            is_folder=header.isdir(),
        )

    def _behind_sparse_map(self, start: int, more: int) -> int:
        for _ in range(MAX_SPARSE_BLOCKS):
            if not more:
                return start
            more = self._block(start)[504]
            start += HEADER_BYTES
        raise _corrupt(start, "a map of holes without end")

    def _within(self, offset: int) -> int:
        if offset > self._limits.max_shard_bytes:
            announced = f"it goes on to byte {offset} or says so, beyond {self._limits.max_shard_bytes}"
            raise BrokenTarError("oversized_shard", announced)
        return offset

    def _block(self, offset: int, ended: bool = False) -> bytes:
        """The whole block at a position.

        Args:
            offset: the position.
            ended: whether an end mark stands before it.

        Raises:
            BrokenTarError: the file ends before or within it.
        """
        block = self._read(offset, HEADER_BYTES)
        if len(block) == HEADER_BYTES:
            return block
        if ended:
            raise _trailing(offset)
        if offset == 0:
            raise _no_tar(block) if block else BrokenTarError("empty_shard", "the file has 0 bytes")
        if block:
            what = f"the file ends inside the header at byte {offset}"
        elif self._read(offset - 1, 1):
            what = f"no end-of-archive mark at byte {offset}, where the file ends"
        else:
            what = f"the file ends before byte {offset}, up to which its last member goes"
        raise BrokenTarError("truncated_shard", what)

    def _behind_zeros(self, offset: int) -> int | None:
        """Where something stands behind an end mark; none where nothing does."""
        while chunk := self._read(self._within(offset), PADDING_CHUNK_BYTES):
            rest = chunk.lstrip(b"\0")
            if rest:
                return offset + (len(chunk) - len(rest)) // HEADER_BYTES * HEADER_BYTES
            offset += len(chunk)
        return None

    def _read(self, offset: int, size: int) -> bytes:
        """The edge to whatever serves the bytes; fewer than `size` come only at the end of the file."""
        try:
            if self._position != offset:
                self._stream.seek(offset)
            content = self._stream.read(size)
            while 0 < len(content) < size and (more := self._stream.read(size - len(content))):
                content += more
        except UnreadableError as error:
            self._position = None
            raise BrokenTarError(f"{error.reason}_shard", f"{error.detail}; readable up to byte {self.reached}") from error
        except Exception as error:
            self._position = None
            what = f"{type(error).__name__}: {public(first_line(error))}"
            raise BrokenTarError("unreadable_shard", f"{what}; readable up to byte {self.reached}") from error
        self._position = offset + len(content)
        self.reached = max(self.reached, self._position)
        return content


def _parsed(block: bytes, offset: int, ended: bool) -> tarfile.TarInfo:
    """A header's fields.

    Args:
        block: the header.
        offset: where it stands.
        ended: whether an end mark stands before it.
    """
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    except Exception as error:
        if ended:
            raise _trailing(offset) from error
        if offset == 0:
            raise _no_tar(block) from error
        raise _corrupt(offset, "no header of a tar; what follows cannot be read") from error
    if header.size < 0:
        raise _corrupt(offset, f"a size of {header.size} bytes")
    header.offset = offset
    return header


def _padded(size: int) -> int:
    return -(-size // HEADER_BYTES) * HEADER_BYTES


def _trailing(offset: int) -> BrokenTarError:
    what = f"what stands behind the end mark, at byte {offset}, is no tar; samples before it are whole"
    return BrokenTarError("trailing_data", what)


def _corrupt(offset: int, what: str) -> BrokenTarError:
    return BrokenTarError("corrupt_shard", f"damaged header at byte {offset}: {what}")


def _no_tar(start: bytes) -> BrokenTarError:
    packed = next((name for magic, name in COMPRESSED.items() if start.startswith(magic)), None)
    if packed is not None:
        return BrokenTarError("not_a_tar", f"it is compressed ({packed}); unpack it first, shards are plain tars")
    if start.lstrip().lower().startswith(PAGES):
        return BrokenTarError("not_a_tar", "it is a page or a message in HTML, XML or JSON, as servers send them")
    if len(start) < HEADER_BYTES:
        return BrokenTarError("not_a_tar", f"{len(start)} bytes, less than one tar header")
    return BrokenTarError("not_a_tar", "no tar header at byte 0")
