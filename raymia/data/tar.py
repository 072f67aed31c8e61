"""Tolerant reading of one WebDataset tar: every sample comes out once, whole or with the reason why not."""

from __future__ import annotations

import io
import json
import posixpath
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import fsspec

from raymia.data.groups import TEXTS, Placed, place, remember
from raymia.data.images import EXTENSIONS

MAX_IMAGE_BYTES = 256 * 2**20
MAX_TEXT_BYTES = 2**20
HEADER_BYTES = tarfile.BLOCKSIZE
"""Size of a header, and of the blocks that a tar is made of."""

# Flags are remarks on a sample that is scored all the same.
NO_CAPTION = "no_caption"
CAPTION_NOT_UTF8 = "caption_not_utf8"
CAPTION_UNREADABLE = "caption_unreadable"
SEVERAL_IMAGES = "several_images"


@dataclass(frozen=True)
class Fault:
    """Why a sample or the rest of a shard cannot be scored."""

    reason: str
    """A short fixed word, counted in summaries."""
    detail: str
    """What is wrong, in words for a person."""


@dataclass(frozen=True)
class RawSample:
    """One sample as it stands in a tar, undecoded.

    Attributes:
        index: position in the shard, counting every sample.
        key: name of the sample in the tar.
        image: bytes of the image file; None where there is a fault or the sample was not asked for.
        caption: empty where there is none.
        flags: remarks that do not keep it from being scored.
        fault: why it cannot be scored; none where it can, as far as the tar shows.
    """

    index: int
    key: str
    image: bytes | None
    caption: str
    flags: tuple[str, ...]
    fault: Fault | None


@dataclass(frozen=True)
class ShardEnd:
    """How reading a shard ended.

    Attributes:
        samples: how many samples the shard holds, wanted or not, as far as it could be read.
        bytes_reached: position in the tar up to which it could be read.
        fault: why it could not be read to its end; none where it could.
    """

    samples: int
    bytes_reached: int
    fault: Fault | None


@dataclass
class _Sample:
    """A sample whose members are being read."""

    index: int
    key: str
    wanted: bool
    contents: dict[str, bytes] = field(default_factory=dict)
    image_extension: str | None = None
    flags: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    fault: Fault | None = None


Wanted = Callable[[int, str], bool]
"""Is given a sample's index and key, and says whether the sample is to be read."""


def everything(_index: int, _key: str) -> bool:
    """Want every sample; see `read_shard`."""
    return True


def read_shard(url: str, wanted: Wanted = everything, with_images: bool = True) -> Iterator[RawSample | ShardEnd]:
    """Read a tar at a local path or fsspec URL; the last item is always a `ShardEnd`. Never raises for bad data.

    Args:
        url: where the tar is.
        wanted: is given each sample's index and key, once and in order; the content of a sample for which it says no is
            neither read nor yielded.
        with_images: whether to read the images; without, an image that is there is empty.
    """
    try:
        with fsspec.open(url, "rb") as stream:
            yield from read_tar(stream, wanted, with_images)
    except FileNotFoundError:
        yield ShardEnd(0, 0, Fault("missing_shard", f"{url}: no such file"))
    except (OSError, ValueError, ImportError) as error:
        yield ShardEnd(0, 0, Fault("unreadable_shard", f"{url}: {type(error).__name__}: {error}"))


def read_tar(stream: BinaryIO, wanted: Wanted = everything, with_images: bool = True) -> Iterator[RawSample | ShardEnd]:
    """Read a tar from a seekable stream; see `read_shard`."""
    reader = _TarReader(stream, wanted, with_images)
    yield from reader.samples()
    yield reader.end()


class _TarReader:
    """Reads one tar from start to end."""

    def __init__(self, stream: BinaryIO, wanted: Wanted, with_images: bool) -> None:
        """Begin at the start of the tar; see `read_shard` for the arguments."""
        self._stream = stream
        self._wanted = wanted
        self._with_images = with_images
        self._keys: set[str] = set()
        self._count = 0
        self._reached = 0
        self._fault: Fault | None = None

    def end(self) -> ShardEnd:
        """How reading ended; asked after the last sample."""
        fault = self._fault
        if fault is None and self._count == 0:
            fault = Fault("empty_shard", "the tar holds no samples")
        return ShardEnd(self._count, self._reached, fault)

    def samples(self) -> Iterator[RawSample]:
        """The wanted samples in order, each as soon as its last member is read."""
        sample: _Sample | None = None
        for placed in place(self._members()):
            if sample is None or placed.first:
                if sample is not None and sample.wanted:
                    yield self._finish(sample)
                sample = self._start(placed.key)
            self._take(sample, placed)
        if sample is None or not sample.wanted:
            return
        if self._fault is not None and not (sample.image_extension and sample.seen & set(TEXTS)):
            # The tar breaks off inside or right behind this sample: what is missing from it cannot be known.
            sample.fault = sample.fault or _broken_off(self._fault)
        yield self._finish(sample)

    def _start(self, key: str) -> _Sample:
        sample = _Sample(self._count, key, self._wanted(self._count, key))
        self._count += 1
        if key in self._keys:
            sample.fault = Fault("duplicate_key", "the key stands in this shard before; the first sample is kept")
        self._keys.add(key)
        return sample

    def _take(self, sample: _Sample, placed: Placed) -> None:
        """Add a member to its sample, and read it where it is needed."""
        remember(sample.seen, placed.extension)
        if sample.wanted and placed.extension in (*EXTENSIONS, *TEXTS):
            try:
                self._read(sample, placed.extension, placed.member)
            except (_TruncatedError, tarfile.TarError, OSError, *_HEADER_ERRORS) as error:
                self._break_off(error)
                sample.fault = sample.fault or _broken_off(self._fault)
                return
        self._reached = max(self._reached, placed.member.offset_data + placed.member.size)

    def _read(self, sample: _Sample, extension: str, member: tarfile.TarInfo) -> None:
        if extension in EXTENSIONS:
            if sample.image_extension is not None:
                sample.flags.append(SEVERAL_IMAGES)
                return
            sample.image_extension = extension
            if not self._with_images:
                sample.contents[extension] = b""
                return
        content = self._content(member, MAX_IMAGE_BYTES if extension in EXTENSIONS else MAX_TEXT_BYTES)
        if isinstance(content, bytes):
            sample.contents[extension] = content
        elif extension in EXTENSIONS:
            sample.fault = sample.fault or content
        else:
            sample.flags.append(CAPTION_UNREADABLE)

    def _finish(self, sample: _Sample) -> RawSample:
        caption, flags = _caption(sample.contents)
        fault = sample.fault
        if fault is None and sample.image_extension is None:
            present = ", ".join(sorted(f".{extension}" for extension in sample.seen))
            fault = Fault("no_image", f"no member with one of {', '.join('.' + e for e in EXTENSIONS)}; found {present}")
        image = None if fault or sample.image_extension is None else sample.contents.get(sample.image_extension)
        return RawSample(sample.index, sample.key, image, caption, (*sample.flags, *flags), fault)

    def _members(self) -> Iterator[tarfile.TarInfo]:
        """Everything but folders and WebDataset's own ``__meta__`` entries, in order, until the tar ends or breaks off."""
        try:
            self._tar = tarfile.TarFile(fileobj=self._stream, mode="r", errors="backslashreplace")
        except (tarfile.TarError, *_HEADER_ERRORS) as error:
            self._fault = _not_a_tar(self._stream, error)
            return
        except OSError as error:
            self._break_off(error)
            return
        while (member := self._next()) is not None:
            self._reached = max(self._reached, member.offset)
            base = posixpath.basename(member.name)
            if not (member.isdir() or (base.startswith("__") and base.endswith("__"))):
                yield member

    def _next(self) -> tarfile.TarInfo | None:
        """The next header; none at the end of what can be read."""
        if self._fault is not None:
            return None
        try:
            member = self._tar.next()
            # tarfile keeps every header it has read; a shard of a million members would fill memory with them.
            self._tar.members.clear()  # type: ignore[attr-defined]
            if member is None:
                self._fault = self._check_end(self._tar.offset)
        except (tarfile.TarError, OSError, *_HEADER_ERRORS) as error:
            self._break_off(error)
            return None
        return member

    def _break_off(self, error: Exception) -> None:
        reason = "unreadable_shard" if isinstance(error, OSError) else "truncated_shard"
        self._fault = self._fault or Fault(reason, f"{error}; readable up to byte {self._reached}")

    def _content(self, member: tarfile.TarInfo, limit: int) -> bytes | Fault:
        file = self._tar.extractfile(member) if member.isreg() else None
        if file is None:
            return Fault("not_a_file", f"{member.name} is a link or device in the tar, not a file")
        if member.size > limit:
            return Fault("too_many_bytes", f"{member.name} has {member.size} bytes, more than {limit}")
        try:
            content = file.read()
        except tarfile.ReadError as error:
            raise _TruncatedError(f"the data of {member.name} end early") from error
        if len(content) < member.size:
            raise _TruncatedError(f"the data of {member.name} end after {len(content)} of {member.size} bytes")
        return content

    def _check_end(self, offset: int) -> Fault | None:
        """tarfile takes a damaged header or the bare end of the file for the end of the archive; tell them apart."""
        self._stream.seek(offset)
        header = self._stream.read(HEADER_BYTES)
        if len(header) == HEADER_BYTES and not header.strip(b"\0"):
            return None
        if not header:
            return Fault("truncated_shard", f"no end-of-archive mark at byte {offset}, where the file ends")
        if len(header) < HEADER_BYTES:
            return Fault("truncated_shard", f"the file ends inside the header at byte {offset}")
        return Fault("corrupt_shard", f"damaged header at byte {offset}; what follows cannot be read")


class _TruncatedError(Exception):
    """The data of a member end before its header says."""


_HEADER_ERRORS = (ValueError, OverflowError, EOFError, KeyError, IndexError, RecursionError)
"""What tarfile raises, beside its own errors, for headers that are damaged or made to harm."""


def _broken_off(fault: Fault | None) -> Fault:
    return Fault("truncated_sample", f"the shard breaks off here: {fault.detail if fault else ''}")


def _not_a_tar(stream: BinaryIO, error: Exception) -> Fault:
    stream.seek(0, io.SEEK_END)
    size = stream.tell()
    if size == 0:
        return Fault("empty_shard", "the file has 0 bytes")
    if 0 < size < HEADER_BYTES:
        return Fault("not_a_tar", f"{size} bytes, less than one tar header")
    return Fault("not_a_tar", f"no tar header at byte 0 ({error}); compressed tars must be unpacked first")


def _caption(contents: dict[str, bytes]) -> tuple[str, list[str]]:
    """The caption from ``.txt``, else from the ``caption`` field of ``.json``; remarks where it is missing or damaged."""
    flags: list[str] = []
    caption: object = None
    if "txt" in contents:
        caption = _text(contents["txt"], flags)
    elif "json" in contents:
        try:
            facts = json.loads(_text(contents["json"], flags))
            caption = facts.get("caption") if isinstance(facts, dict) else None
        except (ValueError, RecursionError):
            caption = None
    if not isinstance(caption, str) or not caption.strip():
        return "", [*flags, NO_CAPTION]
    clean = caption.strip().encode("utf-8", "replace").decode()
    if clean != caption.strip() and CAPTION_NOT_UTF8 not in flags:
        flags.append(CAPTION_NOT_UTF8)
    return clean, flags


def _text(content: bytes, flags: list[str]) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        flags.append(CAPTION_NOT_UTF8)
        return content.decode("utf-8", "replace")
