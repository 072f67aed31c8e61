"""What is known of works and controls that are to be looked for, and of those that cannot be, why."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from raymia.curation.addresses import address_of
from raymia.curation.digests import SIZES
from raymia.curation.lists import MEANS
from raymia.curation.perceptual import parse_hash, perceptual_hashes
from raymia.curation.told import CUT_URL
from raymia.curation.works import Work, Works
from raymia.data.images import MAX_PIXELS, ImageError
from raymia.data.tar import Fault
from raymia.errors import ConfigError
from raymia.run.columns import EMBEDDING
from raymia.run.ledger import Ledger
from raymia.run.record import FeaturesRecord
from raymia.urls import public

NO_FEATURES = "no_features"
"""Why a work was not looked for by its embedding: nobody gave one."""


@dataclass
class Sought:
    """What is known of the works and controls, by their numbers.

    Attributes:
        keys, sources: of each; see `raymia.curation.works.Work`.
        control: whether it is a control.
        known: what each is looked for by, by means and number: addresses, digests, hashes or an embedding.
        lacks: why it cannot be looked for by some means, by means and number.
        left_out: controls that are works too, the file or the address being the same.
    """

    keys: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    control: list[bool] = field(default_factory=list)
    known: dict[str, dict[int, object]] = field(default_factory=lambda: {name: {} for name in MEANS})
    lacks: dict[str, dict[int, str]] = field(default_factory=lambda: {name: {} for name in MEANS})
    left_out: int = 0

    def count(self, means: str, control: bool) -> int:
        """How many can be looked for by some means."""
        return sum(self.control[number] is control for number in self.known[means])

    @property
    def hashes(self) -> int:
        """Perceptual hashes of works; one that EXIF turns has two."""
        known = self.known["phash"].items()
        return sum(len(values) for number, values in known if isinstance(values, set) and not self.control[number])


@dataclass(frozen=True)
class KnownVectors:
    """Embeddings of images by the digest of the file, and by key where one image alone has it."""

    clip: str
    width: int
    by_digest: Mapping[str, NDArray[np.float32]]
    by_key: Mapping[str, NDArray[np.float32]]

    @classmethod
    def read(cls, folders: Sequence[str]) -> KnownVectors:
        """Read what `raymia data embed` wrote.

        Raises:
            ConfigError: a folder holds no features, or they are of different models.
        """
        clips: dict[str, str] = {}
        by_digest: dict[str, NDArray[np.float32]] = {}
        of_key: dict[str, set[str]] = {}
        for folder in folders:
            ledger = Ledger(folder)
            record = ledger.read_run()
            if not isinstance(record, FeaturesRecord) or record.finished is None:
                raise ConfigError(f"--features {public(folder)}: expected a folder that `raymia data embed` filled to its end")
            clips[folder] = record.clip
            table = ledger.scores()
            values = table.column(EMBEDDING).combine_chunks().to_pylist()
            names = zip(table.column("key").to_pylist(), table.column("image_sha256").to_pylist(), values, strict=True)
            for key, digest, value in names:
                if value is not None:
                    by_digest[digest] = np.array(value, np.float32)
                    of_key.setdefault(key, set()).add(digest)
        if not by_digest:
            raise ConfigError(
                f"--features {', '.join(map(public, folders))}: no embedding in it; run `raymia data embed` again"
            )
        widths = {len(vector) for vector in by_digest.values()}
        if len({*clips.values()}) > 1 or len(widths) > 1:
            told = ", ".join(f"{public(folder)} by {clip}" for folder, clip in clips.items())
            raise ConfigError(f"--features: of different models, {told}; expected all of one")
        by_key = {key: by_digest[next(iter(digests))] for key, digests in of_key.items() if len(digests) == 1}
        return cls(next(iter(clips.values())), widths.pop(), by_digest, by_key)


def sought_of(works: Works, control: Works | None, means: Sequence[str], vectors: KnownVectors | None) -> Sought:
    """What is known of each work and control.

    Args:
        works: what is looked for.
        control: images that the list does not have, as far as anybody knows.
        means: by what the lists can be searched.
        vectors: embeddings; none where they are not searched by these.

    Raises:
        ConfigError: a source cannot be used, or is empty.
    """
    sought = Sought()
    with_images = bool({*means} - {"url"})
    of_works: set[str] = set()
    for source, is_control in ((works, False), *(((control, True),) if control else ())):
        before = len(sought.keys)
        for work in source.read(with_images):
            digest = hashlib.sha256(work.content).hexdigest() if isinstance(work.content, bytes) else None
            marks = {*_marks(work, digest)}
            if is_control and marks & of_works:
                sought.left_out += 1
                continue
            if not is_control:
                of_works |= marks
            number = len(sought.keys)
            sought.keys.append(work.key)
            sought.sources.append(work.source)
            sought.control.append(is_control)
            for name in means:
                value = _known(name, work, digest, vectors)
                if isinstance(value, Fault):
                    sought.lacks[name][number] = value.reason
                else:
                    sought.known[name][number] = value
        if len(sought.keys) == before and not (is_control and sought.left_out):
            raise ConfigError(f"{public(source.source)}: holds no work")
    return sought


def _marks(work: Work, digest: str | None) -> Iterator[str]:
    """What shows that two works are one."""
    address = address_of(work.facts.get("url"))
    yield from () if digest is None else (digest,)
    yield from () if address is None else (address.whole,)


def _known(means: str, work: Work, digest: str | None, vectors: KnownVectors | None) -> object:
    """What a work is looked for by, or why that is not known."""
    if means == "url":
        is_whole = "url" in work.facts
        url = work.facts.get("url" if is_whole else CUT_URL)
        if url is None:
            return work.told_fault or Fault("no_url", "nothing says where it was published")
        return (
            (url, is_whole)
            if address_of(url) is not None
            else Fault("not_an_address", "what is said of its URL is none of the web")
        )
    if means in SIZES:
        return _digests(means, work)
    if means == "phash":
        return _look(work)
    found = None
    if vectors is not None and digest is not None:
        found = vectors.by_digest.get(digest)
    elif vectors is not None:
        found = vectors.by_digest.get(work.facts.get("sha256", "").lower(), vectors.by_key.get(work.key))
    return Fault(NO_FEATURES, "--features has no embedding of it") if found is None else found


def _digests(kind: str, work: Work) -> object:
    """The digest of the file that is here and, where the work's table has one, of that which once was fetched."""
    told = work.facts.get(kind, "").strip().lower()
    values = {told} if len(told) == SIZES[kind] and set(told) <= set("0123456789abcdef") else set()
    if isinstance(work.content, bytes):
        values.add(hashlib.new(kind, work.content, usedforsecurity=False).hexdigest())
    return values or (
        work.content if isinstance(work.content, Fault) else Fault("no_image", "there is neither file nor digest")
    )


def _look(work: Work) -> object:
    """The perceptual hashes: of the file that is here and, where the work's table has one, that one."""
    told = parse_hash(work.facts.get("phash"))
    values = set() if told is None else {told}
    why = work.content if isinstance(work.content, Fault) else Fault("no_image", "there is neither file nor hash")
    if isinstance(work.content, bytes):
        try:
            values |= perceptual_hashes(work.content, MAX_PIXELS)
            why = Fault("one_tone", "a picture of one tone looks like all others")
        except ImageError as error:
            why = Fault(error.reason, error.detail)
    elif "phash" in work.facts:
        why = Fault("not_a_hash", "expected 64 bits as sixteen hexadecimal digits")
    return values or why
