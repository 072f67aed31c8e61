"""What `raymia data pack` takes: folders of images, tables of images, shards, and what img2dataset fetched."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from raymia.curation.folders import Dropped, list_folder
from raymia.curation.kinds import Sorted, sort_files
from raymia.curation.names import extension_of, keys_of, pair
from raymia.data.captions import TEXTS
from raymia.data.formats import EXTENSIONS
from raymia.data.manifest import Manifest, Shard, within
from raymia.data.selection import ShardReader, shard_readers
from raymia.data.tables import is_table, read_leaf, read_schema, read_table
from raymia.errors import ConfigError
from raymia.urls import public

PATH_COLUMNS = ("file", "path", "image")
CAPTION_COLUMNS = ("caption", "text", "TEXT")
IMAGE_COLUMN = "image"
"""Column of images that stand in the table itself: bytes, or the data hub's struct of `bytes` and `path`."""
FETCHED_PER_SHARD = 1000
"""Images that go into a shard, of those that stand beside the tars of what was fetched."""

# Flags are remarks on an image that is packed all the same.
NAME_DIFFERS = "name_differs"
"""The image, or its caption, was found under a name of another case, Unicode form or separator."""
NOT_IN_CAPTIONS = "not_in_captions"
"""No row of the table of captions names the image."""
SEVERAL_CAPTIONS = "several_captions"
"""Rows of the table of captions disagree; the first counts."""


@dataclass(frozen=True)
class ImageFile:
    """An image to be packed.

    Attributes:
        location: path or fsspec URL; empty where the image stands in a table and nowhere else.
        source: the name by which the user knows it.
        key: key of the sample that it becomes.
        caption: its caption; none where that stands in files beside the image, or nowhere.
        side_cars: paths or URLs of the files beside the image that may hold the caption, the first that does counting.
        flags: remarks on how image and caption were found.
        row: number of the row that holds it, from 0, where it stands in a table.
    """

    location: str
    source: str
    key: str
    caption: str | None
    side_cars: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    row: int | None = None


@dataclass(frozen=True)
class FilePart:
    """Images that go into one shard.

    Attributes:
        split: the split's name.
        number: number of the shard in its split, from 0.
        files: the images, in order.
        table: the Parquet that they stand in; none for files of their own.
    """

    split: str
    number: int
    files: tuple[ImageFile, ...]
    table: str | None = None


@dataclass(frozen=True)
class ShardPart:
    """A shard that goes into another: undecodable images left out, samples in the order of their keys.

    Attributes:
        split: the split's name.
        number: number of the new shard in its split, from 0.
        reader: reads the shard that goes in.
        table: img2dataset's Parquet of what it attempted, where it fetched the shard.
    """

    split: str
    number: int
    reader: ShardReader
    table: str | None


@dataclass(frozen=True)
class DroppedPart:
    """What a source holds and no shard is made of.

    Attributes:
        split: the split's name.
        rows: one for each.
    """

    split: str
    rows: tuple[Dropped, ...]


Part = FilePart | ShardPart
Parts = Sequence[Part | DroppedPart]


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
        return _of_table(split, source, per_shard)
    listing = list_folder(source)
    found = sort_files(source, listing.names, _known(source, listing.names, captions))
    if not found.images and not found.tars:
        raise ConfigError(_nothing_in(source, listing.names))
    files, dropped = _of_folder(source, found, captions)
    parts: list[Part | DroppedPart] = [*_in_parts(split, files, per_shard)]
    parts += _of_tars(split, source, found.tars, set(listing.names), len(parts))
    dropped = [*listing.dropped, *found.dropped, *dropped]
    return [*parts, DroppedPart(split, tuple(dropped))] if dropped else parts


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


def _known(source: str, names: Sequence[str], captions: str | None) -> set[str]:
    """Files of a folder that are neither images nor captions of one: the table of captions, and what img2dataset writes."""
    stems = {posixpath.splitext(name)[0] for name in names if extension_of(name) == "tar"}
    known = {f"{stem}{ending}" for stem in stems for ending in (".parquet", "_stats.json")}
    if captions is not None:
        known |= {name for name in names if is_table(name) and _same(within(source, name), captions)}
    return known


def _same(one: str, other: str) -> bool:
    if "://" in one or "://" in other:
        return one == other
    return os.path.realpath(one) == os.path.realpath(other)


def _nothing_in(source: str, names: Sequence[str]) -> str:
    tables = [name for name in names if is_table(name)]
    has = ", ".join(f".{extension}" if extension else "no extension" for extension in sorted(set(map(extension_of, names))))
    return (
        f"{public(source)}: no images ({', '.join('.' + extension for extension in EXTENSIONS)}) and no tars in this folder; "
        + (f"its {len(names)} files have {has}" if names else "it is empty")
        + (f"; to pack the images of a table, name it: {within(public(source), tables[0])}" if tables else "")
    )


def _of_folder(source: str, found: Sorted, captions: str | None) -> tuple[list[ImageFile], list[Dropped]]:
    """Images of a folder, with captions from a table or from files beside them; and what belongs to none of them."""
    keys = dict(zip(found.images, keys_of(found.images), strict=True))
    side_cars, renamed = _side_cars(found.images, found.texts)
    claimed = {text for texts in side_cars.values() for text in texts}
    dropped = [
        Dropped(name, "list", "no_image_beside", "no image of this name stands beside it")
        for name in found.texts
        if name not in claimed
    ]
    if captions is not None and found.images:
        given, unmatched = _from_captions(source, found.images, captions)
        files = [ImageFile(within(source, name), name, keys[name], given[name][0], (), given[name][1]) for name in found.images]
        return files, dropped + unmatched
    files = []
    for name in found.images:
        texts = tuple(within(source, text) for text in side_cars.get(name, ()))
        files.append(ImageFile(within(source, name), name, keys[name], None, texts, (NAME_DIFFERS,) * (name in renamed)))
    return files, dropped


def _side_cars(images: Sequence[str], texts: Sequence[str]) -> tuple[dict[str, list[str]], set[str]]:
    """Names of the files that may hold each image's caption, in order; and the images whose names those do not quite have."""
    by_stem: dict[str, dict[str, str]] = {}
    # In order: of `a.TXT` and `a.txt` the latter counts.
    for name in texts:
        by_stem.setdefault(posixpath.splitext(name)[0], {})[extension_of(name)] = name
    stems = {name: posixpath.splitext(name)[0] for name in images}
    paired = pair(stems.values(), by_stem.keys())
    side_cars = {
        name: [by_stem[paired[stem]][extension] for extension in TEXTS if extension in by_stem[paired[stem]]]
        for name, stem in stems.items()
        if stem in paired
    }
    return side_cars, {name for name, stem in stems.items() if paired.get(stem, stem) != stem}


def _from_captions(
    source: str, images: Sequence[str], captions: str
) -> tuple[dict[str, tuple[str, tuple[str, ...]]], list[Dropped]]:
    """Caption and flags of each image of a folder from a table of captions, and the rows that name none of them."""
    table = read_table(captions, ("file", "caption"), "captions", others=False)
    table = table[table["file"].notna()]
    rows: dict[str, list[str]] = {}
    for name, caption in zip(table["file"], table["caption"].fillna(""), strict=True):
        rows.setdefault(name, []).append(caption)
    paired = pair(rows, set(images))
    if not paired:
        example = public(next(iter(rows), "none"))
        raise ConfigError(f"captions {public(captions)}: none of its files is in {public(source)}, such as {example!r}")
    given: dict[str, tuple[str, tuple[str, ...]]] = dict.fromkeys(images, ("", (NOT_IN_CAPTIONS,)))
    for name, image in paired.items():
        flags = [NAME_DIFFERS] * (name != image) + [SEVERAL_CAPTIONS] * (len(set(rows[name])) > 1)
        given[image] = (rows[name][0], tuple(flags))
    detail = f"a row of {posixpath.basename(public(captions))} that names no image of the folder"
    return given, [Dropped(name, "list", "no_such_image", detail) for name in rows if name not in paired]


def _of_table(split: str, source: str, per_shard: int) -> list[Part | DroppedPart]:
    """Images that a table names, or holds."""
    schema = read_schema(source, "table")
    caption_column = _column(schema, CAPTION_COLUMNS, source)
    embedded = IMAGE_COLUMN in schema.names and _holds_images(schema.field(IMAGE_COLUMN).type, source)
    dropped: list[Dropped] = []
    if embedded:
        files = _embedded(source, schema.field(IMAGE_COLUMN).type, caption_column)
    else:
        files, dropped = _named(source, _column(schema, PATH_COLUMNS, source), caption_column)
    if not files:
        raise ConfigError(f"table {public(source)}: none of its rows names an image")
    parts = _in_parts(split, files, per_shard, source if embedded else None)
    return [*parts, DroppedPart(split, tuple(dropped))] if dropped else [*parts]


def _named(source: str, path_column: str, caption_column: str) -> tuple[list[ImageFile], list[Dropped]]:
    """An image for each row that names a file; not for one that says again what another says."""
    table = read_table(source, (path_column, caption_column), "table", others=False)
    folder = _folder_of(source)
    paths = [path if isinstance(path, str) else None for path in table[path_column]]
    renamed = _renamed(folder, [path for path in paths if path is not None])
    kept: dict[tuple[str, str], str] = {}
    dropped: list[Dropped] = []
    for number, (path, caption) in enumerate(zip(paths, table[caption_column].fillna(""), strict=True)):
        if path is None:
            dropped.append(Dropped(f"row {number}", "read", "no_file_named", "the row names no file"))
            continue
        row = (renamed.get(path) or within(folder, path), caption)
        if row in kept:
            dropped.append(Dropped(path, "read", "duplicate_file", "another row has the same file and caption"))
        kept.setdefault(row, path)
    files = [
        ImageFile(location, path, key, caption, (), (NAME_DIFFERS,) * (path in renamed))
        for ((location, caption), path), key in zip(kept.items(), keys_of([*kept.values()]), strict=True)
    ]
    return files, dropped


def _embedded(source: str, kind: pa.DataType, caption_column: str) -> list[ImageFile]:
    """An image for each row of a table that holds them."""
    captions = read_table(source, (caption_column,), "table", others=False)[caption_column].fillna("")
    has_paths = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
    paths = read_leaf(source, IMAGE_COLUMN, "path", "table") if has_paths else [None] * len(captions)
    folder = _folder_of(source)
    names = [path or f"row-{number:08d}" for number, path in enumerate(paths)]
    rows = enumerate(zip(paths, names, keys_of(names), captions, strict=True))
    return [
        ImageFile(within(folder, path) if path else "", name, key, caption, row=number)
        for number, (path, name, key, caption) in rows
    ]


def _renamed(folder: str, paths: Sequence[str]) -> dict[str, str]:
    """Where the files are that a table on a local disk does not quite name, by the names that it has for them."""
    if "://" in folder:
        return {}
    gone = [path for path in dict.fromkeys(paths) if "://" not in path and not os.path.lexists(within(folder, path))]
    beside: set[str] = set()
    for parent in {posixpath.dirname(path) for name in gone for path in (name, name.replace("\\", "/"))}:
        try:
            beside |= {posixpath.join(parent, path.name) for path in Path(folder, parent).iterdir()}
        except (OSError, ValueError):
            continue
    named = [path for path in dict.fromkeys(paths) if path not in gone]
    found = pair([*named, *gone], beside | set(named))
    return {path: within(folder, found[path]) for path in gone if path in found}


def _holds_images(kind: pa.DataType, source: str) -> bool:
    """Whether a column of images holds the images themselves, and not names of files."""
    if pa.types.is_struct(kind):
        fields = {kind.field(number).name for number in range(kind.num_fields)}
        if "bytes" not in fields:
            raise ConfigError(
                f"table {public(source)}: column {IMAGE_COLUMN} is {kind}; expected text, or a struct with `bytes`"
            )
        return True
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


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


def _folder_of(source: str) -> str:
    """The folder of a table, whose URL may carry a signature."""
    return posixpath.dirname(re.split("[?#]", source, maxsplit=1)[0] if "://" in source else source)


def _column(schema: pa.Schema, candidates: Sequence[str], source: str) -> str:
    column = next((name for name in candidates if name in schema.names), None)
    if column is None:
        has = ", ".join(schema.names)
        raise ConfigError(f"table {public(source)}: expected a column {' or '.join(candidates)}; it has {has}")
    return column
