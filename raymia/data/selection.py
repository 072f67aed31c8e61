"""The samples of a manifest that count: all of its shards' samples, or those that its selection names."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from raymia.data.manifest import Manifest, Shard, resolve_shards, within
from raymia.data.members import SHARD_LIMITS, ReadLimits
from raymia.data.patterns import MAX_FILES
from raymia.data.remote import LIMITS, RemoteLimits
from raymia.data.tables import read_table
from raymia.data.tar import Fault, RawSample, ShardEnd, read_shard
from raymia.errors import ConfigError, suggest

SELECTED_MISSING = "selected_missing"
"""Why a sample that a selection names cannot be scored: its shard lacks it."""
IDENTITY = ["split", "shard", "key"]
"""Columns that together name one sample of a manifest."""


@dataclass(frozen=True)
class ShardReader:
    """Reads the samples of one shard that count.

    Attributes:
        shard: the tar and its split.
        keys: keys of the samples that count; none where all do.
        fold_captions: see `raymia.data.manifest.Manifest`.
        limits, remote: see `raymia.data.tar.read_shard`.
    """

    shard: Shard
    keys: frozenset[str] | None = None
    fold_captions: bool = False
    limits: ReadLimits = SHARD_LIMITS
    remote: RemoteLimits = LIMITS

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

        for item in read_shard(self.shard.url, selected, with_images, self.limits, self.remote):
            if isinstance(item, ShardEnd):
                missing = self._missing(seen, len(numbers), item.fault)
                yield from (sample for sample in missing if wanted(sample.index))
                yield replace(item, samples=len(numbers) + len(missing))
            else:
                caption = fold(item.caption) if self.fold_captions else item.caption
                yield replace(item, index=numbers[item.index], caption=caption)

    def _missing(self, seen: set[str], first: int, fault: Fault | None) -> list[RawSample]:
        """The samples that count and were not found, numbered behind those that were."""
        detail = "the selection names it, and the shard has no such sample"
        if fault is not None:
            detail = f"the selection names it, and it was not found before the shard broke off: {fault.detail}"
        why = Fault(SELECTED_MISSING, detail)
        keys = sorted((self.keys or frozenset()) - seen)
        return [RawSample(first + i, key, None, "", (), why) for i, key in enumerate(keys)]


def fold(caption: str) -> str:
    """Lower case and single spaces: what CLIP's tokenizer makes of a caption before anything else."""
    return " ".join(caption.lower().split())


def selection_digest(readers: Sequence[ShardReader]) -> str | None:
    """sha256 over the keys of the samples that count; none where all do."""
    if all(reader.keys is None for reader in readers):
        return None
    keys = [[*reader.place, *sorted(reader.keys or ())] for reader in readers]
    return hashlib.sha256(json.dumps(keys).encode()).hexdigest()


def shard_readers(
    manifest: Manifest,
    folder: str,
    limits: ReadLimits = SHARD_LIMITS,
    remote: RemoteLimits = LIMITS,
    max_shards: int = MAX_FILES,
) -> list[ShardReader]:
    """A reader for every shard of a manifest, in the order of `resolve_shards`.

    Args:
        manifest: the manifest, as `raymia.data.manifest.load_manifest` gives it.
        folder: where its relative paths start.
        limits, remote: see `raymia.data.tar.read_shard`.
        max_shards: a manifest of more is refused.

    Raises:
        ConfigError: a split's patterns match nothing, or too much, or the selection cannot be read.
    """
    shards = resolve_shards(manifest, folder, max_shards)
    fold = manifest.fold_captions
    if manifest.selection is None:
        return [ShardReader(shard, None, fold, limits, remote) for shard in shards]
    keys = _selected(within(folder, manifest.selection), {(shard.split, shard.name) for shard in shards})
    none: frozenset[str] = frozenset()
    return [ShardReader(shard, keys.get((shard.split, shard.name), none), fold, limits, remote) for shard in shards]


def _selected(source: str, shards: set[tuple[str, str]]) -> dict[tuple[str, str], frozenset[str]]:
    """The keys that a selection names, by shard; each row is one sample of a shard that is there, or it is an error."""
    table = read_table(source, IDENTITY, "selection")[IDENTITY]
    if table.empty:
        raise ConfigError(f"selection {source}: names no sample")
    empty = table.isna().any(axis=1)
    if empty.any():
        raise ConfigError(f"selection {source}: row {int(empty.argmax()) + 1} lacks one of {', '.join(IDENTITY)}")
    table = table.astype(str)
    repeated = table.duplicated()
    if repeated.any():
        row = "/".join(table[repeated].iloc[0])
        raise ConfigError(f"selection {source}: names {row} twice; name each sample once")
    keys: dict[tuple[str, str], set[str]] = defaultdict(set)
    for split, shard, key in table.itertuples(index=False):
        keys[split, shard].add(key)
    found = {place: frozenset(part) for place, part in keys.items()}
    unknown = sorted(set(found) - shards)
    if unknown:
        split, shard = unknown[0]
        known = sorted(name for of, name in shards if of == split)
        hint = suggest(shard, known) if known else f"; splits are {', '.join(sorted({of for of, _ in shards}))}"
        problem = f"names {len(unknown)} shards that the manifest does not have, such as {split}/{shard}"
        raise ConfigError(f"selection {source}: {problem}{hint if len(hint) < 300 else ''}")
    return found
