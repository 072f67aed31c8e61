"""What a data set is packed from, part by part: images of a folder or a table, shards, and what no shard is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raymia.curation.folders import Dropped
from raymia.data.selection import ShardReader

NO_SUCH_IMAGE = "no_such_image"
"""Reason for a row of a table of captions that names no image."""
NAME_DIFFERS = "name_differs"
"""Flag of an image that was found, or whose caption was, under a name of another case, Unicode form or separator."""


Facts = tuple[tuple[str, str], ...]
"""What a row says of an image; see `raymia.curation.told.kept`."""


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
        facts: what its row says of it; see `raymia.curation.told`.
    """

    location: str
    source: str
    key: str
    caption: str | None
    side_cars: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    row: int | None = None
    facts: Facts = ()


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
        in_captions: names of its images as the rows of a table of captions have them.
    """

    split: str
    rows: tuple[Dropped, ...]
    in_captions: frozenset[str] = frozenset()


Part = FilePart | ShardPart
Parts = Sequence[Part | DroppedPart]


def dropped_rows(parts: Parts) -> list[tuple[str, Dropped]]:
    """Split and row of all that goes into no shard.

    A row of a table of captions that names no image of one split may name one of another: then nothing is amiss.
    """
    by_split = {part.split: part for part in parts if isinstance(part, DroppedPart)}
    elsewhere = {
        split: frozenset().union(*(other.in_captions for other in by_split.values() if other.split != split))
        for split in by_split
    }
    return [
        (split, row)
        for split, part in by_split.items()
        for row in part.rows
        if row.reason != NO_SUCH_IMAGE or row.source not in elsewhere[split]
    ]
