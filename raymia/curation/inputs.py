"""What `raymia data pack` takes: folders of images, tables of images, shards, and what img2dataset fetched."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import Path

from raymia.curation.captioned import images_of_folder, read_captions
from raymia.curation.folders import list_folder
from raymia.curation.kinds import sort_files
from raymia.curation.listed import images_of_table
from raymia.curation.names import extension_of
from raymia.curation.output import same_place
from raymia.curation.parts import DroppedPart, FilePart, ImageFile, Part, ShardPart
from raymia.data.formats import EXTENSIONS
from raymia.data.manifest import Manifest, Shard, load_manifest, within
from raymia.data.selection import ShardReader, shard_readers
from raymia.data.tables import is_table
from raymia.errors import ConfigError
from raymia.shipped import NAMED
from raymia.urls import public

FETCHED_PER_SHARD = 1000
"""Images that go into a shard, of those that stand beside the tars of what was fetched."""


def find_parts(split: str, source: str, captions: str | None, per_shard: int) -> list[Part | DroppedPart]:
    """The shards that a source will be packed into, in a fixed order, and then what none is made of.

    Args:
        split: name of the split that the images belong to.
        source: a folder of images, of tars, or of img2dataset's output; or a table of files (`file` and `caption`, relative to
            the table), or of the images themselves (`image` and `caption`).
        captions: a table of `file` and `caption`, for a folder of images without captions beside them.
        per_shard: images that go into a shard; tars keep theirs.

    Raises:
        ConfigError: there is no such source, or nothing in it to pack.
    """
    if is_table(source):
        if captions is not None:
            raise ConfigError(f"--captions goes with a folder of images; {public(source)} has captions of its own")
        files, lost, embedded = images_of_table(source)
        in_parts = _in_parts(split, files, per_shard, source if embedded else None)
        return [*in_parts, DroppedPart(split, tuple(lost))] if lost else [*in_parts]
    source = source if "://" in source else str(Path(source).expanduser())
    listing = list_folder(source)
    found = sort_files(source, listing.names, _known(source, listing.names, captions))
    if not found.images and not found.tars:
        raise ConfigError(_nothing_in(source, listing.names))
    if captions is not None and not found.images:
        raise ConfigError(
            f"--captions goes with a folder of images; {public(source)} holds tars, which have captions of their own"
        )
    given = read_captions(found.images, captions, source) if captions is not None else None
    files, unused = images_of_folder(source, found, given)
    parts: list[Part | DroppedPart] = [*_in_parts(split, files, per_shard)]
    parts += _of_tars(split, source, found.tars, set(listing.names), len(parts))
    dropped = (*listing.dropped, *found.dropped, *unused, *(given.unmatched if given else ()))
    named = given.named if given else frozenset()
    return [*parts, DroppedPart(split, dropped, named)] if dropped or named else parts


def parts_of_manifest(manifest: Manifest, folder: str, fetched: dict[str, str]) -> list[Part | DroppedPart]:
    """The shards of a manifest with the samples that count; splits one after another.

    Args:
        manifest: the manifest, as `raymia.data.manifest.load_manifest` gives it.
        folder: where its relative paths start.
        fetched: folder of img2dataset's output, of each split that is a list of URLs.

    Raises:
        ConfigError: see `raymia.data.selection.shard_readers`, and `find_parts` for what was fetched.
    """
    packed = manifest.model_copy(update={"splits": tuple(split for split in manifest.splits if split.source is None)})
    readers = shard_readers(packed, folder) if packed.splits else []
    parts: list[Part | DroppedPart] = []
    for split in manifest.splits:
        if split.source is not None:
            parts += find_parts(split.name, fetched[split.name], None, FETCHED_PER_SHARD)
            continue
        of_split = [reader for reader in readers if reader.shard.split == split.name and reader.keys != frozenset()]
        parts += [ShardPart(split.name, number, reader, None) for number, reader in enumerate(of_split)]
    return parts


def manifest_at(source: str) -> tuple[Manifest, str, tuple[str, ...]] | None:
    """The manifest that a source is, the folder that its paths start at, and its splits or, of ``M.yaml#SPLIT``, that one.

    None where the source is no manifest, by its ending.

    Raises:
        ConfigError: it cannot be read, or has no such split.
    """
    place, _, wanted = source.partition("#")
    if not place.lower().endswith((".yaml", ".yml")) and place not in NAMED.names():
        return None
    manifest, folder = load_manifest(place)
    names = tuple(split.name for split in manifest.splits)
    if wanted and wanted not in names:
        raise ConfigError(f"{public(place)}#{wanted}: no split {wanted!r}; the manifest has {', '.join(names)}")
    return manifest, folder, (wanted,) if wanted else names


def _known(source: str, names: Sequence[str], captions: str | None) -> set[str]:
    """Files of a folder that are neither images nor captions of one: the table of captions, and what img2dataset writes."""
    stems = {posixpath.splitext(name)[0] for name in names if extension_of(name) == "tar"}
    known = {f"{stem}{ending}" for stem in stems for ending in (".parquet", "_stats.json")}
    if captions is not None:
        known |= {name for name in names if is_table(name) and same_place(within(source, name), captions)}
    return known


def _nothing_in(source: str, names: Sequence[str]) -> str:
    tables = [name for name in names if is_table(name)]
    has = ", ".join(f".{extension}" if extension else "no extension" for extension in sorted(set(map(extension_of, names))))
    return (
        f"{public(source)}: no images ({', '.join('.' + extension for extension in EXTENSIONS)}) and no tars in this folder; "
        + (f"its {len(names)} files have {has}" if names else "it is empty")
        + (f"; to pack the images of a table, name it: {within(public(source), tables[0])}" if tables else "")
    )


def _of_tars(split: str, source: str, tars: Sequence[str], names: set[str], first: int) -> list[Part]:
    parts: list[Part] = []
    for number, tar in enumerate(tars, first):
        stem = posixpath.splitext(tar)[0]
        shard = Shard(split=split, name=posixpath.basename(stem), url=within(source, tar), member=None)
        table = f"{stem}.parquet"
        parts.append(ShardPart(split, number, ShardReader(shard), within(source, table) if table in names else None))
    return parts


def _in_parts(split: str, files: list[ImageFile], per_shard: int, table: str | None = None) -> list[Part]:
    starts = range(0, len(files), per_shard)
    return [FilePart(split, number, tuple(files[i : i + per_shard]), table) for number, i in enumerate(starts)]
