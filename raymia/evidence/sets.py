"""The two sets of an audit: works and control packed alike, works that belong together named, twins left out of the control."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel
from rich.console import Console

from raymia.curation.derive import MANIFEST_FILE, derive, output_folder, write_clusters
from raymia.curation.inputs import find_parts, manifest_at, parts_of_manifest
from raymia.curation.pack import pack
from raymia.curation.parts import DroppedPart, Part, Parts
from raymia.curation.verification import COMPARED_PX, MIN_AGREEMENT, Thumbnail, agreement, thumbnail_of
from raymia.data.clusters import components
from raymia.data.images import MAX_PIXELS
from raymia.data.manifest import Label, load_manifest
from raymia.data.selection import IDENTITY, ShardReader, shard_readers
from raymia.data.tar import RawSample
from raymia.errors import ConfigError
from raymia.evaluation.evidence import CONTROL_SPLIT, GENERATED_SPLIT, WORKS_SPLIT, Lost
from raymia.run.ledger import CLUSTERS_FILE

PACKED, SETS = "data", "sets"
"""Folders of the packed images, and of the manifest of those that are tested."""
PER_SHARD = 1000
LABELS: dict[str, Label] = {WORKS_SPLIT: "unknown", CONTROL_SPLIT: False, GENERATED_SPLIT: "generated"}
OUTLINE_PX = 16
LIKELY = 0.8
"""Correlation of two outlines from which their pictures are compared at every trim."""
AT_ONCE = 1024


@dataclass(frozen=True)
class Sources:
    """Where the images of each set are: a folder, a table, tars, or a manifest, with ``#SPLIT`` for one of its splits.

    Attributes:
        works: that are asked about.
        control: certainly not trained on, of the same kind.
        generated: made by a model in the works' style, where there are such.
        captions: table of file and caption, for folders of images.
    """

    works: str
    control: str
    generated: str | None = None
    captions: str | None = None

    def by_split(self) -> dict[str, str]:
        """The sources that there are, by the split that their images go into."""
        named = {WORKS_SPLIT: self.works, CONTROL_SPLIT: self.control, GENERATED_SPLIT: self.generated}
        return {split: source for split, source in named.items() if source is not None}


class Sets(BaseModel):
    """The sets as they are tested.

    Attributes:
        manifest: place of their manifest.
        samples: that are tested, by split.
        lost: images that could not be packed, by split and reason.
        twins: control images that show what a work shows, which are left out.
        together: samples that belong to a cluster of their split, by split.
    """

    manifest: str
    samples: dict[str, int]
    lost: list[Lost]
    twins: int
    together: dict[str, int]


def manifest_of(folder: Path | str) -> str:
    """Place of the manifest of the sets, in the folder of an audit."""
    return f"{folder}/{SETS}/{MANIFEST_FILE}"


def packed_shards(folder: str) -> dict[str, str]:
    """sha256 of every packed shard of an audit, by its path in the folder of these."""
    packed, _ = load_manifest(f"{folder}/{PACKED}/{MANIFEST_FILE}")
    return {path: digest for split in packed.splits for path, digest in sorted((split.sha256 or {}).items())}


def make_sets(sources: Sources, folder: str, console: Console) -> Sets:
    """Pack the images, and name those that show the same; the same call goes on where it was stopped.

    Args:
        sources: of the images.
        folder: of the audit.
        console: where progress is shown.

    Raises:
        ConfigError: a source cannot be read, or nothing is left of a set.
        RaymiaError: packing failed; the same call goes on from there.
    """
    parts: list[Part | DroppedPart] = []
    for split, source in sources.by_split().items():
        parts += _parts(split, source, sources.captions)
    labels = {split: LABELS[split] for split in sources.by_split()}
    packed = f"{folder}/{PACKED}"
    _, attrition = pack("audit", labels, parts, packed, console)
    manifest, place = load_manifest(f"{packed}/{MANIFEST_FILE}")
    readers = shard_readers(manifest, place)
    table, thumbnails = thumbnails_in(readers, MAX_PIXELS)
    links = twins_of(thumbnails)
    splits = table["split"].to_numpy(str)
    pairs = splits[links]
    dropped = np.zeros(len(table), bool)
    for side, other in ((0, 1), (1, 0)):
        misleading = (pairs[:, side] == CONTROL_SPLIT) & (pairs[:, other] == WORKS_SPLIT)
        dropped[links[misleading, side]] = True
    inside = links[pairs[:, 0] == pairs[:, 1]]
    group = components(len(table), inside)
    clustered = (np.bincount(group, minlength=1)[group] > 1) & ~dropped
    storage = output_folder(f"{folder}/{SETS}")
    write_clusters(storage, table[clustered], group[clustered])
    made = derive(
        manifest,
        place,
        storage,
        table.loc[~dropped, IDENTITY],
        [reader.shard for reader in readers],
        dict(labels),
        clusters=CLUSTERS_FILE,
    )
    return Sets(
        manifest=manifest_of(folder),
        samples={split.name: split.samples or 0 for split in made.splits},
        lost=[
            Lost(split=counted.split, reason=reason, images=number)
            for counted in attrition.splits
            for reason, number in counted.lost.items()
        ],
        twins=int(dropped.sum()),
        together={name: int((clustered & (splits == name)).sum()) for name in labels},
    )


def _parts(split: str, source: str, captions: str | None) -> Parts:
    found = manifest_at(source)
    if found is None:
        return find_parts(split, source, captions, PER_SHARD)
    manifest, folder, wanted = found
    if lists := [one.name for one in manifest.splits if one.source is not None and one.name in wanted]:
        raise ConfigError(f"{source}: split {lists[0]} is a list of URLs; fetch and pack it with `raymia data pack` first")
    # The selection of a manifest names its other splits, too, so that these are left out of what it comes to.
    packed = manifest.model_copy(update={"splits": tuple(one for one in manifest.splits if one.source is None)})
    found_parts = parts_of_manifest(packed, folder, {})
    parts = [part for part in found_parts if not isinstance(part, DroppedPart) and part.split in wanted]
    return [replace(part, split=split, number=number) for number, part in enumerate(parts)]


def thumbnails_in(
    readers: Sequence[ShardReader], max_pixels: int, wanted: Collection[tuple[str, ...]] | None = None
) -> tuple[pd.DataFrame, NDArray[np.uint8]]:
    """Identity of every sample whose image decodes, and its thumbnail.

    Args:
        readers: of the shards.
        max_pixels: a picture whose header announces more does not decode.
        wanted: split, shard and key of the samples; none for all.
    """
    rows: list[tuple[str, str, str]] = []
    pictures: list[Thumbnail] = []
    for reader in readers:
        for item in reader.read():
            if not isinstance(item, RawSample) or item.image is None:
                continue
            name = (*reader.place, item.key)
            if wanted is not None and name not in wanted:
                continue
            picture = thumbnail_of(item.image, max_pixels)
            if picture is not None:
                rows.append(name)
                pictures.append(picture)
    side = COMPARED_PX
    stacked = np.stack(pictures) if pictures else np.zeros((0, side, side, 3), np.uint8)
    return pd.DataFrame(rows, columns=IDENTITY), stacked


def twins_of(thumbnails: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(pairs, 2) numbers of pictures that are one and the same but for size, quality, a cropped margin and a mirror.

    Models are trained on mirrored pictures, too. Outlines are held against one another first, all against all, and those that
    are alike at every trim.

    Args:
        thumbnails: (n, COMPARED_PX, COMPARED_PX, 3) pixels.
    """
    outlines, mirrored = _outlines(thumbnails), _outlines(thumbnails[:, :, ::-1])
    same = {thumbnail.tobytes(): number for number, thumbnail in reversed(list(enumerate(thumbnails)))}
    found = {(first, number) for number, thumbnail in enumerate(thumbnails) if (first := same[thumbnail.tobytes()]) != number}
    for theirs, others in ((outlines, thumbnails), (mirrored, thumbnails[:, :, ::-1])):
        for start in range(0, len(outlines), AT_ONCE):
            alike = outlines[start : start + AT_ONCE] @ theirs.T
            for one, other in zip(*np.nonzero(alike >= LIKELY), strict=True):
                pair = (int(one) + start, int(other))
                if pair[0] < pair[1] and pair not in found and agreement(thumbnails[pair[0]], others[pair[1]]) >= MIN_AGREEMENT:
                    found.add(pair)
    return np.array(sorted(found), np.int64).reshape(-1, 2)


def _outlines(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, OUTLINE_PX ** 2) brightness of pictures, less its mean, of length 1."""
    side = COMPARED_PX // OUTLINE_PX
    grey = thumbnails.astype(np.float32).mean(-1)
    grey = grey.reshape(len(thumbnails), OUTLINE_PX, side, OUTLINE_PX, side).mean((2, 4))
    outlines = grey.reshape(len(thumbnails), OUTLINE_PX**2)
    outlines = outlines - outlines.mean(1, keepdims=True)
    norm = np.linalg.norm(outlines, axis=1, keepdims=True)
    return np.asarray(outlines / np.maximum(norm, 1e-6), np.float32)
