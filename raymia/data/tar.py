"""Tolerant reading of one WebDataset tar: every sample comes out once, whole or with the reason why not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from raymia.data.captions import CAPTION_UNREADABLE, TEXTS, caption_beside
from raymia.data.captions import NO_CAPTION as NO_CAPTION
from raymia.data.droppings import is_dropping
from raymia.data.formats import EXTENSIONS
from raymia.data.groups import Placed, place, remember, split_name
from raymia.data.members import SHARD_LIMITS, BrokenTarError, Member, ReadLimits, TarStream
from raymia.data.remote import LIMITS, REASONS, RemoteLimits, UnreadableError, open_file
from raymia.data.strays import Strays

SEVERAL_IMAGES = "several_images"
"""A remark on a sample that is scored all the same: another image of a plain extension stands beside the first."""
RETRIED = frozenset(f"{reason}_shard" for reason in REASONS)
"""Faults of a shard that say nothing of what it holds: the file, the server or the connection may be back another time. Each is
a reason of `raymia.data.remote.UnreadableError` and `_shard`."""
LONG_KEY = 64
"""Of longer keys a digest is remembered, which bounds memory."""


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
        facts: the ``.json`` beside the image, as it stands there; empty where there is none.
    """

    index: int
    key: str
    image: bytes | None
    caption: str
    flags: tuple[str, ...]
    fault: Fault | None
    facts: bytes = b""


@dataclass(frozen=True)
class ShardEnd:
    """How reading a shard ended.

    Attributes:
        samples: how many samples the shard holds, wanted or not, as far as it could be read.
        bytes_reached: position in the tar up to which it could be read.
        fault: why it could not be read to its end; none where it could.
        skipped: files that no one meant to be there, such as those that file systems leave; see `raymia.data.droppings`.
    """

    samples: int
    bytes_reached: int
    fault: Fault | None
    skipped: int = 0


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


def read_shard(
    url: str,
    wanted: Wanted = everything,
    with_images: bool = True,
    limits: ReadLimits = SHARD_LIMITS,
    remote: RemoteLimits = LIMITS,
) -> Iterator[RawSample | ShardEnd]:
    """Read a tar at a local path or fsspec URL; the last item is always a `ShardEnd`. Never raises for bad data.

    Args:
        url: where the tar is.
        wanted: is given each sample's index and key, once and in order; the content of a sample for which it says no is
            neither read nor yielded.
        with_images: whether to read the images; without, an image that is there is empty.
        limits: how much is read before the shard is given up.
        remote: how long and how often, where it is not on a local disk.
    """
    opened = ended = False
    try:
        with open_file(url, remote) as stream:
            opened = True
            for item in read_tar(stream, wanted, with_images, limits):
                ended = isinstance(item, ShardEnd)
                yield item
    except UnreadableError as error:
        if not opened:
            yield ShardEnd(0, 0, Fault(f"{error.reason}_shard", error.detail))
        elif not ended:
            # What goes wrong in reading has ended the shard within; this is a fault of our own.
            raise


def read_tar(
    stream: BinaryIO, wanted: Wanted = everything, with_images: bool = True, limits: ReadLimits = SHARD_LIMITS
) -> Iterator[RawSample | ShardEnd]:
    """Read a tar from a seekable stream; see `read_shard`."""
    reader = _TarReader(stream, wanted, with_images, limits)
    yield from reader.samples()
    yield reader.end()


class _TarReader:
    """Reads one tar from start to end."""

    def __init__(self, stream: BinaryIO, wanted: Wanted, with_images: bool, limits: ReadLimits) -> None:
        """Begin at the start of the tar; see `read_shard` for the arguments."""
        self._tar = TarStream(stream, limits)
        self._wanted = wanted
        self._with_images = with_images
        self._limits = limits
        self._keys: set[str | bytes] = set()
        self._count = 0
        self._skipped = 0
        self._fault: Fault | None = None
        self._strays = Strays(self._meant_from, split_name, limits.max_joined_members, RETRIED)

    def end(self) -> ShardEnd:
        """How reading ended; asked after the last sample."""
        fault = self._fault
        if fault is None and self._count == 0:
            fault = Fault("empty_shard", "the tar holds no samples")
        return ShardEnd(self._count, self._tar.reached, fault, self._skipped)

    def samples(self) -> Iterator[RawSample]:
        """The wanted samples in order, each as soon as its last member is read."""
        sample: _Sample | None = None
        placed_members = place(self._members(), lambda key: _short(key) in self._keys, self._strays.of)
        while (placed := self._next(placed_members)) is not None:
            if sample is None or placed.first:
                if sample is not None and sample.wanted:
                    yield self._finish(sample)
                sample = self._start(placed.key)
            self._take(sample, placed)
        if sample is None or not sample.wanted:
            return
        if self._breaks_off() and not _is_whole(sample):
            # The tar breaks off inside or right behind this sample: what is missing from it cannot be known.
            sample.fault = sample.fault or _broken_off(self._fault)
        yield self._finish(sample)

    def _next(self, placed_members: Iterator[Placed]) -> Placed | None:
        try:
            return next(placed_members, None)
        except BrokenTarError as error:
            self._break_off(error)
            return None

    def _start(self, key: str) -> _Sample:
        sample = _Sample(self._count, key, self._wanted(self._count, key))
        self._count += 1
        short = _short(key)
        if short in self._keys:
            sample.fault = Fault("duplicate_key", "the key stands in this shard before; the first sample is kept")
        self._keys.add(short)
        return sample

    def _take(self, sample: _Sample, placed: Placed) -> None:
        """Add a member to its sample, and read it where it is needed."""
        remember(sample.seen, placed.extension)
        if sample.wanted and placed.extension in (*EXTENSIONS, *TEXTS):
            try:
                self._read(sample, placed.extension, placed.member)
            except BrokenTarError as error:
                self._break_off(error)
                sample.fault = sample.fault or _broken_off(self._fault)

    def _read(self, sample: _Sample, extension: str, member: Member) -> None:
        if extension in EXTENSIONS:
            if sample.image_extension is not None:
                sample.flags.append(SEVERAL_IMAGES)
                return
            sample.image_extension = extension
            if not self._with_images:
                sample.contents[extension] = b""
                return
        limit = self._limits.max_image_bytes if extension in EXTENSIONS else self._limits.max_text_bytes
        content = self._content(member, limit)
        if isinstance(content, bytes):
            sample.contents[extension] = content
        elif extension in EXTENSIONS:
            sample.fault = sample.fault or content
        else:
            sample.flags.append(CAPTION_UNREADABLE)

    def _finish(self, sample: _Sample) -> RawSample:
        caption = caption_beside({text: sample.contents[text] for text in TEXTS if text in sample.contents})
        fault = sample.fault
        if fault is None and self._strays.cut and not _is_whole(sample):
            fault = Fault("truncated_sample", "its members do not all stand together, and the shard breaks off before its end")
        if fault is None and sample.image_extension is None:
            present = ", ".join(sorted(f".{extension}" for extension in sample.seen)[:20])
            fault = Fault("no_image", f"no member with one of {', '.join('.' + e for e in EXTENSIONS)}; found {present}")
        image = None if fault or sample.image_extension is None else sample.contents.get(sample.image_extension)
        flags = tuple(dict.fromkeys((*sample.flags, *caption.flags)))
        return RawSample(sample.index, sample.key, image, caption.text, flags, fault, sample.contents.get("json", b""))

    def _members(self) -> Iterator[Member]:
        """The members that count, in order, until the tar ends or breaks off."""
        try:
            for member in self._tar.members():
                if member.offset in self._strays.claimed:
                    self._strays.claimed.discard(member.offset)
                elif is_dropping(member.name):
                    self._skipped += not member.is_folder
                elif not member.is_folder:
                    yield member
                if self._fault is not None:
                    return
        except BrokenTarError as error:
            self._break_off(error)

    def _meant_from(self, offset: int) -> Iterator[Member]:
        """The members that count from a header on."""
        reached = self._tar.reached
        try:
            yield from (m for m in self._tar.members(offset) if not m.is_folder and not is_dropping(m.name))
        finally:
            # How far headers were read ahead is not how far samples were.
            self._tar.reached = reached

    def _break_off(self, error: BrokenTarError) -> None:
        self._fault = self._fault or Fault(error.reason, error.detail)

    def _breaks_off(self) -> bool:
        """Whether samples may be missing at the end, or parts of the last."""
        return self._fault is not None and self._fault.reason != "trailing_data"

    def _content(self, member: Member, limit: int) -> bytes | Fault:
        if not member.is_file:
            return Fault("not_a_file", f"{member.name!r} is a link, a device or has holes in the tar, and is no plain file")
        if member.size > limit:
            return Fault("too_many_bytes", f"{member.name!r} has {member.size} bytes, more than {limit}")
        return self._tar.content(member)


def _is_whole(sample: _Sample) -> bool:
    return sample.image_extension is not None and not sample.seen.isdisjoint(TEXTS)


def _short(key: str) -> str | bytes:
    return key if len(key) <= LONG_KEY else hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _broken_off(fault: Fault | None) -> Fault:
    return Fault("truncated_sample", f"the shard breaks off here: {fault.detail if fault else ''}")
