"""Works that were first published after a model's cut-off, packed as the control of an audit."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

from pydantic import BaseModel

from raymia.curation.folders import SHARDS_FOLDER
from raymia.curation.names import keys_of
from raymia.curation.output import MANIFEST_FILE, write_manifest
from raymia.curation.samples import Packed
from raymia.curation.told import kept
from raymia.curation.works import Works
from raymia.data.images import MAX_PIXELS, ImageError, upright_image
from raymia.data.manifest import Manifest, Split
from raymia.data.provider import ProviderClaims
from raymia.data.tar import Fault
from raymia.errors import ConfigError, first_line
from raymia.run.storage import Storage, StorageError
from raymia.urls import public

SPLIT = "non_members"
PER_SHARD = 1000


class Late(BaseModel):
    """What was written of the certain non-members."""

    manifest: str | None
    """Its place; none where no image was left to write."""
    images: int
    lost: dict[str, int]
    """Those that could not be written, by reason."""


def empty_folder(option: str, path: str) -> Storage:
    """A folder that can be written and holds nothing yet: what lay in it would be taken for a part of what is written.

    Raises:
        ConfigError: it cannot be written, or is not empty.
    """
    storage = Storage(path)
    try:
        storage.try_write()
        there = storage.names("", "")
    except (OSError, StorageError) as error:
        raise ConfigError(f"{option} {public(path)}: cannot be written ({first_line(error)})") from error
    if there:
        raise ConfigError(f"{option} {public(path)}: holds {there[0]} already; name a folder that is empty or not there")
    return storage


def write_late(
    storage: Storage, works: Works, sources: Sequence[str], chosen: Sequence[bool], provider: ProviderClaims
) -> Late:
    """Write images, captions and facts of chosen works into shards, with a manifest that `raymia audit --control` takes.

    Args:
        storage: an empty folder.
        works: that are read once more.
        sources: of them, in their order.
        chosen: whether each of them is a certain non-member.
        provider: of the model that they are no members of.

    Raises:
        ConfigError: the works are others than they were.
    """
    # Who writes no image needs no writer of tars.
    from raymia.curation.writing import write_shard

    lost: Counter[str] = Counter()
    samples, shards = _samples(works, sources, chosen, lost), dict[str, str]()
    images = 0
    while first := next(samples, None):
        name = f"{SHARDS_FOLDER}/{SPLIT}-{len(shards):05d}.tar"
        with storage.create(name) as stream:
            shard = write_shard(stream, itertools.chain([first], itertools.islice(samples, PER_SHARD - 1)))
        shards[name] = shard["sha256"]
        images += shard["samples"]
    if not shards:
        return Late(manifest=None, images=0, lost=dict(lost))
    cut_off = None if provider.cut_off is None else provider.cut_off.value
    manifest = Manifest(
        name="late",
        provenance=f"first published after {cut_off}, the cut-off of {provider.model} as its provider says",
        valid_for_models=(provider.model,),
        claims=provider,
        splits=(Split(name=SPLIT, member=False, shards=tuple(shards), samples=images, sha256=shards),),
    )
    write_manifest(storage, manifest)
    return Late(manifest=f"{storage.url}/{MANIFEST_FILE}", images=images, lost=dict(lost))


def _samples(works: Works, sources: Sequence[str], chosen: Sequence[bool], lost: Counter[str]) -> Iterator[Packed]:
    known = zip(sources, keys_of(sources), chosen, strict=True)
    for work, told in itertools.zip_longest(works.read(with_images=True, with_captions=True), known):
        if work is None or told is None or work.source != told[0]:
            raise ConfigError(f"{public(works.source)}: changed while it was read; run the same command again")
        if not told[2]:
            continue
        content = work.content or Fault("no_image", "there is no file")
        if isinstance(content, Fault):
            lost[content.reason] += 1
            continue
        try:
            _, extension = upright_image(content, MAX_PIXELS)
        except ImageError as error:
            lost[error.reason] += 1
            continue
        yield Packed(told[1], extension, content, work.caption, work.source, kept(work.facts))
