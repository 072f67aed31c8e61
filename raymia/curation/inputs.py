"""What `raymia data pack` takes: folders of images, tables of images, shards, and what img2dataset fetched."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import fsspec
import pandas as pd

from raymia.data.images import EXTENSIONS
from raymia.data.manifest import Manifest, Shard, within
from raymia.data.selection import ShardReader, shard_readers
from raymia.data.tables import is_table, read_table
from raymia.errors import ConfigError, first_line

SIDE_CARS = ("txt", "json")
"""Extensions of the files beside an image that may hold its caption; the first that is there counts."""
PATH_COLUMNS = ("file", "path", "image")
CAPTION_COLUMNS = ("caption", "text", "TEXT")
UNSAFE = re.compile(r"[^A-Za-z0-9_/-]+")
"""Characters that do not go into a key."""
INTERNAL = re.compile(r"^_+(?=[^/]*__/)")
"""The start of a key that makes WebDataset pass over its folder as one for its own use."""
FIT = re.compile(r"(?!__[^/]*__/)[^.\x00-\x1f\x7f]+")
"""Keys of a tar that are read back as they are written, by WebDataset's rule too."""


@dataclass(frozen=True)
class ImageFile:
    """An image to be packed.

    Attributes:
        location: path or fsspec URL.
        source: the name by which the user knows it.
        key: key of the sample that it becomes.
        caption: its caption; none where that stands in a file beside the image, or nowhere.
        side_car: path or URL of the file beside the image that holds the caption; none where there is none.
    """

    location: str
    source: str
    key: str
    caption: str | None
    side_car: str | None


@dataclass(frozen=True)
class FilePart:
    """Images that go into one shard.

    Attributes:
        split: the split's name.
        number: number of the shard in its split, from 0.
        files: the images, in order.
    """

    split: str
    number: int
    files: tuple[ImageFile, ...]


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


Part = FilePart | ShardPart


def find_parts(split: str, source: str, captions: str | None, per_shard: int) -> list[Part]:
    """The shards that a source will be packed into, in a fixed order.

    Args:
        split: name of the split that the images belong to.
        source: a folder of images, of tars, or of img2dataset's output; or a table of files (`file` and `caption`, relative to
            the table).
        captions: a table of `file` and `caption`, for a folder of images without captions beside them.
        per_shard: images that go into a shard; tars keep theirs.

    Raises:
        ConfigError: there is no such source, or nothing in it to pack.
    """
    if is_table(source):
        if captions is not None:
            raise ConfigError(f"--captions goes with a folder of images; {source} has captions of its own")
        return _in_parts(split, _of_table(source), per_shard)
    names = _list(source)
    tars = [name for name in names if name.endswith(".tar")]
    if tars:
        return _of_tars(split, source, tars, set(names))
    images = [name for name in names if _extension(name) in EXTENSIONS]
    if not images:
        raise ConfigError(f"{source}: no images ({', '.join('.' + e for e in EXTENSIONS)}) and no tars in this folder")
    return _in_parts(split, _of_folder(source, images, set(names), captions), per_shard)


def parts_of_manifest(manifest: Manifest, folder: str, fetched: dict[str, str]) -> list[Part]:
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
    parts: list[Part] = []
    for split in manifest.splits:
        if split.source is not None:
            parts += find_parts(split.name, fetched[split.name], None, 1)
            continue
        of_split = [reader for reader in readers if reader.shard.split == split.name and reader.keys != frozenset()]
        parts += [ShardPart(split.name, number, reader, None) for number, reader in enumerate(of_split)]
    return parts


def _list(source: str) -> list[str]:
    """Names below a folder, in order."""
    try:
        filesystem, root = fsspec.core.url_to_fs(source)
        if not filesystem.isdir(root):
            raise ConfigError(f"{source}: expected a folder, or a table that ends in .parquet or .csv")
        paths = filesystem.find(root)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"{source}: cannot be listed ({first_line(error)})") from error
    start = len(root.rstrip("/")) + 1
    names = [str(path)[start:] for path in paths]
    return sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))


def _of_folder(source: str, images: Sequence[str], names: set[str], captions: str | None) -> list[ImageFile]:
    """Images of a folder, with captions from a table or from files beside them."""
    caption_of: dict[str, str] | None = None
    if captions is not None:
        table = read_table(captions, ("file", "caption"), "captions")
        caption_of = dict(zip(table["file"].astype(str), table["caption"].fillna("").astype(str), strict=True))
        if not caption_of.keys() & set(images):
            raise ConfigError(
                f"captions {captions}: none of its files is in {source}, such as {next(iter(caption_of), 'none')!r}"
            )
    files = []
    for name, key in zip(images, _keys(images), strict=True):
        stem = posixpath.splitext(name)[0]
        side_car = next((f"{stem}.{ending}" for ending in SIDE_CARS if f"{stem}.{ending}" in names), None)
        caption = None if caption_of is None else caption_of.get(name, "")
        beside = None if side_car is None or caption is not None else within(source, side_car)
        files.append(ImageFile(within(source, name), name, key, caption, beside))
    return files


def _of_table(source: str) -> list[ImageFile]:
    table = read_table(source, (), "table")
    path_column = _column(table, PATH_COLUMNS, source)
    captions = table[_column(table, CAPTION_COLUMNS, source)].fillna("").astype(str)
    names = table[path_column].astype(str).tolist()
    folder = posixpath.dirname(source)
    return [
        ImageFile(within(folder, name), name, key, caption, None)
        for name, key, caption in zip(names, _keys(names), captions, strict=True)
    ]


def _of_tars(split: str, source: str, tars: Sequence[str], names: set[str]) -> list[Part]:
    parts: list[Part] = []
    for number, tar in enumerate(tars):
        table = tar.removesuffix(".tar") + ".parquet"
        shard = Shard(split=split, name=posixpath.basename(tar).removesuffix(".tar"), url=within(source, tar), member=None)
        parts.append(ShardPart(split, number, ShardReader(shard), within(source, table) if table in names else None))
    return parts


def _in_parts(split: str, files: list[ImageFile], per_shard: int) -> list[Part]:
    starts = range(0, len(files), per_shard)
    return [FilePart(split, number, tuple(files[start : start + per_shard])) for number, start in enumerate(starts)]


def fit_keys(keys: Collection[str]) -> dict[str, str]:
    """The key under which each sample of a tar is packed: its own, or one near to it where that holds a dot or the like."""
    unfit = sorted(key for key in keys if not FIT.fullmatch(key))
    names = {key: key for key in keys}
    return names | dict(zip(unfit, _distinct(unfit, unfit, names.keys() - set(unfit)), strict=True))


def _keys(names: Sequence[str]) -> list[str]:
    """A distinct key for each file, near to its name and fit for the name of a tar's member."""
    return _distinct([posixpath.splitext(name)[0].lstrip("/") for name in names], names)


def _distinct(stems: Sequence[str], names: Sequence[str], taken: Collection[str] = ()) -> list[str]:
    """A key near to each stem: with a digest of the name where there are others like it, and then, if need be, a number."""
    plain = [INTERNAL.sub("", UNSAFE.sub("_", stem)) or "image" for stem in stems]
    counts = Counter([*plain, *taken])
    digests = (hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8] for name in names)
    keys, used, numbers = [], set(taken), Counter[str]()
    for key, digest in zip(plain, digests, strict=True):
        near = distinct = key if counts[key] == 1 else f"{key}-{digest}"
        while distinct in used:
            numbers[near] += 1
            distinct = f"{near}-{numbers[near] + 1}"
        used.add(distinct)
        keys.append(distinct)
    return keys


def _column(table: pd.DataFrame, candidates: Sequence[str], source: str) -> str:
    column = next((name for name in candidates if name in table), None)
    if column is None:
        has = ", ".join(map(str, table.columns))
        raise ConfigError(f"table {source}: expected a column {' or '.join(candidates)}; it has {has}")
    return column


def _extension(name: str) -> str:
    return posixpath.splitext(name)[1].removeprefix(".").lower()
