"""Members of a sample that do not stand together, such as where a tar holds all images before all captions.

Reading stays one pass for as long as every group of members has an image and a caption. At the first that lacks one, the
headers of the rest of the shard are read ahead, once, so that what is scored never lacks a caption that comes later. What is
joined follows from the order of the headers alone: it is the same for local files and others, and for every resume.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from raymia.data.captions import TEXTS
from raymia.data.formats import EXTENSIONS
from raymia.data.members import BrokenTarError, Member

Split = Callable[[str], tuple[str, str]]
"""Cuts the name of a member into key and extension."""


@dataclass
class _Run:
    """Consecutive members of one key."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def start(self) -> int:
        return next(iter(self.members.values())).offset


class Strays:
    """Finds members that belong to a group further up.

    Attributes:
        claimed: positions of the members that a group further up has taken.
        cut: whether the shard breaks off, and samples in it do not stand together: what one lacks may have been behind that.
    """

    def __init__(
        self, members_from: Callable[[int], Iterable[Member]], split: Split, limit: int, fatal: Collection[str]
    ) -> None:
        """Look ahead when first asked.

        Args:
            members_from: the members from a header on.
            split: cuts their names.
            limit: members that may be held.
            fatal: reasons of a `BrokenTarError` for which not even what was found counts, since another try may find more.
        """
        self.claimed: set[int] = set()
        self.cut = False
        self._members_from = members_from
        self._split = split
        self._limit = limit
        self._fatal = fatal
        self._runs: dict[str, list[_Run]] | None = None

    def of(self, key: str, extensions: Collection[str], start: int) -> Iterator[tuple[str, Member]]:
        """The members further on that an unfinished group lacks, by extension, in order.

        Args:
            key: of the group.
            extensions: of its members so far.
            start: the header that follows the group.

        Raises:
            BrokenTarError: samples do not stand together in a shard too large to join them, or the rest cannot be read.
        """
        if self._runs is None:
            self._runs = self._look(key, frozenset(extensions), start)
        have, left = set(extensions), []
        for run in self._runs.pop(key, []):
            if run.start >= start and completes(have, run.members):
                have.update(run.members)
                self.claimed.update(member.offset for member in run.members.values())
                yield from run.members.items()
            else:
                left.append(run)
        if left:
            self._runs[key] = left

    def _look(self, key: str, extensions: frozenset[str], start: int) -> dict[str, list[_Run]]:
        """All later runs of keys that do not stand together."""
        unfinished_keys = {key: extensions}
        runs: dict[str, list[_Run]] = {}
        apart: dict[str, None] = {}
        held = 0
        try:
            for run in self._consecutive(start):
                held += sum(1 + len(member.name) // 256 for member in run.members.values())
                have = unfinished_keys.get(run.key)
                if have is not None and completes(have, run.members):
                    apart[run.key] = None
                elif have is None and unfinished(run.members):
                    unfinished_keys[run.key] = frozenset(run.members)
                if held <= self._limit:
                    runs.setdefault(run.key, []).append(run)
                else:
                    runs.clear()
                if held > self._limit and apart:
                    raise BrokenTarError("not_sorted", self._advice(next(iter(apart))))
        except BrokenTarError as error:
            if error.reason == "not_sorted" or error.reason in self._fatal:
                raise
            self.cut = bool(apart) and error.reason != "trailing_data"
        return {key: runs[key] for key in apart}

    def _consecutive(self, start: int) -> Iterator[_Run]:
        run: _Run | None = None
        try:
            for member in self._members_from(start):
                key, extension = self._split(member.name)
                if run is None or run.key != key or extension in run.members:
                    if run is not None:
                        yield run
                    run = _Run(key)
                run.members[extension] = member
        except BrokenTarError:
            if run is not None:
                yield run
            raise
        if run is not None:
            yield run

    def _advice(self, key: str) -> str:
        return (
            f"the members of sample {key!r} do not stand together, and more than {self._limit} follow; "
            "sort the tar by name (tar --sort=name)"
        )


def unfinished(extensions: Collection[str]) -> bool:
    """Whether a group of members lacks its image, or a text that may be the caption of one of its images."""
    images, texts = _stems(extensions, EXTENSIONS), _stems(extensions, TEXTS)
    return not images or ("" not in texts and ("" in images or not images <= texts))


def completes(have: Collection[str], more: Collection[str]) -> bool:
    """Whether members may be parts of what a group has, and not a sample that repeats it."""
    return not set(have) & set(more) and not _stems(have, EXTENSIONS) & _stems(more, EXTENSIONS)


def _stems(extensions: Collection[str], endings: Collection[str]) -> set[str]:
    """What stands before the last dot of those extensions whose last part is one of `endings`."""
    cut = (extension.rpartition(".") for extension in extensions)
    return {stem for stem, _, last in cut if last in endings}
