"""The samples of a manifest that count: all of its shards' samples, or those that its selection names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from raymia.data.manifest import Manifest, Shard, resolve_shards, within
from raymia.data.tables import read_table
from raymia.data.tar import Fault, RawSample, ShardEnd, read_shard

IDENTITY = ["split", "shard", "key"]
"""Columns that together name one sample of a manifest."""


@dataclass(frozen=True)
class ShardReader:
    """Reads the samples of one shard that count.

    Attributes:
        shard: the tar and its split.
        keys: keys of the samples that count; none where all do.
        fold_captions: see `raymia.data.manifest.Manifest`.
    """

    shard: Shard
    keys: frozenset[str] | None = None
    fold_captions: bool = False

    @property
    def place(self) -> tuple[str, str]:
        """Split and shard, as ledgers name them."""
        return self.shard.split, self.shard.name

    def read(self, wanted: Callable[[int], bool] = lambda _: True, with_images: bool = True) -> Iterator[RawSample | ShardEnd]:
        """The samples that count, numbered without gaps, then a `ShardEnd` that counts them alone.

        Args:
            wanted: is given each sample's number; a sample for which it says no is neither read nor yielded.
            with_images: whether to read the images; without, an image that is there is empty.
        """
        numbers: dict[int, int] = {}
        seen: set[str] = set()

        def selected(index: int, key: str) -> bool:
            if self.keys is not None:
                if key not in self.keys or key in seen:
                    return False
                seen.add(key)
            number = numbers[index] = len(numbers)
            return wanted(number)

        for item in read_shard(self.shard.url, selected, with_images):
            if isinstance(item, ShardEnd):
                yield replace(item, samples=len(numbers), fault=item.fault or self._missing(seen))
            else:
                caption = fold(item.caption) if self.fold_captions else item.caption
                yield replace(item, index=numbers[item.index], caption=caption)

    def _missing(self, seen: set[str]) -> Fault | None:
        missing = sorted((self.keys or frozenset()) - seen)
        if not missing:
            return None
        return Fault("selected_missing", f"{len(missing)} selected samples are not in the shard, such as {missing[0]!r}")


def fold(caption: str) -> str:
    """Lower case and single spaces: what CLIP's tokenizer makes of a caption before anything else."""
    return " ".join(caption.lower().split())


def selection_digest(readers: Sequence[ShardReader]) -> str | None:
    """sha256 over the keys of the samples that count; none where all do."""
    if all(reader.keys is None for reader in readers):
        return None
    keys = [[*reader.place, *sorted(reader.keys or ())] for reader in readers]
    return hashlib.sha256(json.dumps(keys).encode()).hexdigest()


def shard_readers(manifest: Manifest, folder: str) -> list[ShardReader]:
    """A reader for every shard of a manifest, in the order of `resolve_shards`.

    Args:
        manifest: the manifest, as `raymia.data.manifest.load_manifest` gives it.
        folder: where its relative paths start.

    Raises:
        ConfigError: a split's patterns match nothing, or the selection cannot be read.
    """
    shards = resolve_shards(manifest, folder)
    if manifest.selection is None:
        return [ShardReader(shard, None, manifest.fold_captions) for shard in shards]
    table = read_table(within(folder, manifest.selection), IDENTITY, "selection")
    keys = {place: frozenset(part.astype(str)) for place, part in table.groupby(["split", "shard"])["key"]}
    return [ShardReader(shard, keys.get((shard.split, shard.name), frozenset()), manifest.fold_captions) for shard in shards]
