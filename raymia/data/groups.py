"""Which members of a tar make a sample: WebDataset's rule, and what it leaves of keys that hold a dot.

WebDataset cuts a name at the first dot of its base name: ``0001.jpg``, ``0001.seg.png`` and ``0001.txt`` are one sample of key
``0001``, whose image is the one with a plain extension. ``a.b.jpg`` and ``a.c.jpg`` would be one sample without an image, so
where a group has no image of a plain extension but others, its members are told apart at the last dot: samples ``a.b`` and
``a.c``. Headers are enough to know this, so no content need be read for it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from raymia.data.captions import TEXTS
from raymia.data.formats import EXTENSIONS
from raymia.data.members import Member
from raymia.data.strays import unfinished

MAX_HELD = 1000
"""Members that are held until it is known what they are part of; the rule is then applied to these. It bounds memory, and how
far back in the tar their content is."""


@dataclass(frozen=True)
class Placed:
    """A member of a tar and the sample that it is part of; members of a sample come one after another."""

    key: str
    first: bool
    """Whether the member begins a sample."""
    extension: str
    member: Member


class Further(Protocol):
    """Where members of an unfinished group are sought that stand further on; see `raymia.data.strays.Strays.of`."""

    def __call__(self, key: str, extensions: Collection[str], start: int, /) -> Iterable[tuple[str, Member]]:
        """The members by extension, of the group of a key that has these extensions and ends before a header."""


def place(members: Iterable[Member], known: Callable[[str], bool], further: Further) -> Iterator[Placed]:
    """The members of a tar by sample, each as soon as it is known what it is part of.

    Every member comes out once, but for those that belong to several samples alike: in a group that is told apart at the last
    dot, a caption of the group's own key is that of each sample without one, and what else has this key is left out. A group
    too large to be held is told apart as it comes, and what has its own key is a sample like the others.

    Args:
        members: the members in order.
        known: whether a sample of a key has come out before.
        further: finds what a group lacks.
    """
    group: _Group | None = None
    for member in members:
        key, extension = split_name(member.name)
        if group is None or not group.takes(key, extension):
            if group is not None:
                yield from group.end(further, member.offset)
            # What follows a whole sample under its own key repeats it, whatever it holds.
            group = _Group(key, whole=known(key))
        yield from group.add(extension, member)
    if group is not None:
        yield from group.rest()


def split_name(name: str) -> tuple[str, str]:
    """Key and extension of a member, cut at the first dot of the base name: ``a.1/b.seg.PNG`` gives ``a.1/b`` and ``seg.png``.

    What follows the last dot is in lower case. Dots that a base name begins with belong to the key.
    """
    name = name.removeprefix("./").encode("utf-8", "backslashreplace").decode()
    folder, base = posixpath.split(name)
    hidden = len(base) - len(base.lstrip("."))
    stem, _, extension = base[hidden:].partition(".")
    if not stem:
        return name, ""
    middle, dot, last = extension.rpartition(".")
    return posixpath.join(folder, base[:hidden] + stem), middle + dot + last.lower()


def remember(seen: set[str], extension: str) -> None:
    """Add an extension to those of a sample, unless there are very many that nothing is read of."""
    if len(seen) < MAX_HELD or extension in (*EXTENSIONS, *TEXTS):
        seen.add(extension)


class _Group:
    """Consecutive members of one key by WebDataset's rule.

    Attributes:
        key: the key that all members have, cut at the first dot.
        whole: whether the group is known to be one sample.
    """

    def __init__(self, key: str, whole: bool) -> None:
        """Begin a group without members."""
        self.key = key
        self.whole = whole
        # Whether the group is several samples, told apart at the last dot.
        self._apart = False
        # Members by extension, until it is known which sample they are part of.
        self._held: dict[str, Member] = {}
        # The sample that members are being placed in, and the extensions that it has so far.
        self._open: str | None = None
        self._seen: set[str] = set()
        # The extensions of all members so far.
        self._all: set[str] = set()

    def takes(self, key: str, extension: str) -> bool:
        """Whether a member goes on with this group; a repeated extension begins another."""
        if key != self.key:
            return False
        return self._apart or extension not in (self._seen if self.whole else self._held)

    def add(self, extension: str, member: Member) -> Iterator[Placed]:
        """Take a member into the group; give those members whose sample is now known."""
        remember(self._all, extension)
        if self._apart:
            yield self._placed(*self._cut(extension), member)
            return
        self._held[extension] = member
        if self.whole or extension in EXTENSIONS:
            yield from self._as_one()
        elif len(self._held) == MAX_HELD:
            yield from self.rest(ended=False)

    def end(self, further: Further, following: int) -> Iterator[Placed]:
        """Give what stands further on of an unfinished group, and the members that are still held.

        Args:
            further: finds members.
            following: the header after the group.
        """
        if unfinished(self._all):
            for extension, member in further(self.key, frozenset(self._all), following):
                yield from self.add(extension, member)
        yield from self.rest()

    def rest(self, ended: bool = True) -> Iterator[Placed]:
        """Give the members that are still held, as one sample or as several.

        Args:
            ended: whether the group is complete, so that a caption of its own key may go to every sample.
        """
        if any(self._cut(extension)[1] in EXTENSIONS for extension in self._held):
            yield from self._as_several(ended)
        elif self._held:
            yield from self._as_one()

    def _as_one(self) -> Iterator[Placed]:
        self.whole = True
        for extension, member in self._held.items():
            yield self._placed(self.key, extension, member)
        self._held.clear()

    def _as_several(self, ended: bool) -> Iterator[Placed]:
        self._apart = True
        stems: dict[str, dict[str, Member]] = {}
        for extension, member in self._held.items():
            key, last = self._cut(extension)
            stems.setdefault(key, {})[last] = member
        self._held.clear()
        own = stems.pop(self.key, {}) if ended else {}
        common = {text: member for text, member in own.items() if text in TEXTS}
        for key, members in stems.items():
            captions = {} if members.keys() & set(TEXTS) else common
            for last, member in {**members, **captions}.items():
                yield self._placed(key, last, member)

    def _cut(self, extension: str) -> tuple[str, str]:
        """Key and extension of a member by the last dot."""
        middle, dot, last = extension.rpartition(".")
        return (f"{self.key}.{middle}" if dot else self.key), last

    def _placed(self, key: str, extension: str, member: Member) -> Placed:
        first = key != self._open or extension in self._seen
        if first:
            self._open, self._seen = key, set()
        remember(self._seen, extension)
        return Placed(key, first, extension, member)
