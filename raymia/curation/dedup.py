"""Near-duplicates within and across splits, by embedding and by exact hash: named as clusters, dropped where they mislead.

A non-member with a twin among the members was trained on as good as its twin: it is dropped. All other twins stay and are
named, so that evaluation never puts them on both sides of a fold.
"""

from __future__ import annotations

import io
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel
from rich.console import Console

from raymia.curation.derive import derive_from, output_folder, write_clusters, write_frame
from raymia.curation.embed import Features, load_features
from raymia.curation.neighbours import Vectors, pairs_within
from raymia.curation.verification import COMPARED_PX, Thumbnail, agreement, thumbnail_of
from raymia.data.clusters import components
from raymia.data.images import MAX_PIXELS
from raymia.data.manifest import Manifest
from raymia.data.selection import IDENTITY, ShardReader
from raymia.data.tar import RawSample
from raymia.engine.objects import Shared
from raymia.engine.stage import run_parts
from raymia.engine.start import on_ray
from raymia.run.ledger import CLUSTERS_FILE
from raymia.run.storage import Storage

MAX_DISTANCE = 0.5
"""Euclidean distance of unit CLIP embeddings below which two images are twins, as the authors of LAION-mi chose (Dubinski et
al., arXiv 2306.12983)."""
DISTANCE_EDGES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 2.0)
"""Edges of the ranges of distances by which pairs are counted and shown."""
PAIRS_TABLE_FILE = "pairs.parquet"
DEDUP_SUMMARY_FILE = "dedup.json"
COMPARED_AT_ONCE = 2000
"""Pairs whose pixels are compared in one task."""


class DistanceBin(BaseModel):
    """Counts of the pairs whose distance is in one range."""

    low: float
    high: float
    pairs: int
    verified: int | None
    """Those of the pairs whose pixels agree; none without verification."""


class DedupSummary(BaseModel):
    """Contents of dedup.json: how many twins there are, and what became of them."""

    samples: int
    """Samples with features."""
    without_features: int
    """Samples that have no features and are left out."""
    max_distance: float
    min_agreement: float | None
    bins: list[DistanceBin]
    exact: int
    """Samples whose file equals an earlier one, byte for byte."""
    within: dict[str, int]
    """Pairs of twins of the same split, by its name."""
    across: int
    """Pairs of twins of different splits."""
    clusters: int
    in_clusters: int
    """Samples that belong to a cluster."""
    largest: int
    """Samples of the largest cluster."""
    dropped: dict[str, int]
    """Non-members with a twin among members, which are left out, by split."""
    kept: dict[str, int]
    """Samples that stay, by split."""


@dataclass(frozen=True)
class Deduplicated:
    """The result of `dedup`.

    Attributes:
        manifest: the new manifest.
        summary: counts of what was found.
        pairs: a row per pair of twins, closest first: split, shard, key and caption of either as ``one_..`` and ``other_..``,
            distance and, where pixels were compared, agreement.
        features: features of the samples of the manifest that was searched.
    """

    manifest: Manifest
    summary: DedupSummary
    pairs: pd.DataFrame
    features: Features


def dedup(
    manifest_file: str,
    out: str,
    console: Console,
    features: str | None = None,
    max_distance: float = MAX_DISTANCE,
    min_agreement: float | None = None,
) -> Deduplicated:
    """Find twins, and write a manifest that names them and leaves the non-members among them out.

    Args:
        manifest_file: see `raymia.data.manifest.load_manifest`; its features must be there.
        out: folder for the manifest, `clusters.parquet`, `selection.parquet`, `pairs.parquet` and `dedup.json`.
        console: where progress is shown.
        features: see `raymia.curation.embed.load_features`.
        max_distance: Euclidean distance of unit image embeddings below which two images are twins.
        min_agreement: twins must agree in their pixels, too: see `raymia.curation.verification`; none leaves that out.

    Raises:
        ConfigError: the manifest or its features cannot be used.
        RaymiaError: a stage failed; the same call goes on from there.
    """
    storage = output_folder(out, manifest_file)
    known = load_features(manifest_file, features)
    table = known.table
    vectors = known.vectors().astype(np.float32)
    pairs = pairs_within(vectors, max_distance, storage, console)
    if min_agreement is not None:
        pairs = _verified(pairs, known, storage, console)
    bins = _bins(pairs, max_distance, min_agreement)
    if min_agreement is not None:
        pairs = pairs[pairs["agreement"] >= min_agreement].reset_index(drop=True)
    pairs = pd.concat([pairs, _exact(table, vectors)], ignore_index=True).drop_duplicates(["one", "other"], ignore_index=True)
    numbers = pairs[["one", "other"]].to_numpy(np.int64)
    twins = _Twins(pairs, _clusters(len(table), numbers), _dropped(table, numbers))
    summary = DedupSummary(
        samples=len(table),
        without_features=known.lost,
        max_distance=max_distance,
        min_agreement=min_agreement,
        bins=bins,
        **_counts(table, twins),
    )
    clustered = twins.cluster >= 0
    write_clusters(storage, table[clustered], twins.cluster[clustered])
    described = _described(table, pairs)
    write_frame(storage, PAIRS_TABLE_FILE, described)
    storage.write(DEDUP_SUMMARY_FILE, summary.model_dump_json(indent=2).encode() + b"\n")
    made = derive_from(known, storage, table.loc[~twins.dropped, IDENTITY], clusters=CLUSTERS_FILE)
    return Deduplicated(made, summary, described, known)


@dataclass(frozen=True)
class _Twins:
    """The twins among n samples.

    Attributes:
        pairs: a row per pair: one and other (numbers of samples), distance and, where pixels were compared, agreement.
        cluster: (n,) number of each sample's cluster; -1 for a sample without twins.
        dropped: (n,) which samples are left out.
    """

    pairs: pd.DataFrame
    cluster: NDArray[np.int64]
    dropped: NDArray[np.bool_]


def _counts(table: pd.DataFrame, twins: _Twins) -> dict[str, Any]:
    """Fields of `DedupSummary` that count the twins."""
    split = table["split"].to_numpy()
    one, other = split[twins.pairs["one"].to_numpy()], split[twins.pairs["other"].to_numpy()]
    sizes = pd.Series(twins.cluster[twins.cluster >= 0]).value_counts()
    return {
        "exact": int(table["image_sha256"].duplicated().sum()),
        "within": {str(name): int(((one == name) & (other == name)).sum()) for name in pd.unique(split)},
        "across": int((one != other).sum()),
        "clusters": len(sizes),
        "in_clusters": int(sizes.sum()),
        "largest": int(sizes.max()) if len(sizes) else 0,
        "dropped": dict(Counter(split[twins.dropped].tolist())),
        "kept": dict(Counter(split[~twins.dropped].tolist())),
    }


def _exact(table: pd.DataFrame, vectors: Vectors) -> pd.DataFrame:
    """Pairs of equal files: each with the first of its kind."""
    first = table.groupby("image_sha256", sort=False).ngroup().to_numpy()
    earliest = pd.Series(np.arange(len(table))).groupby(first).transform("min").to_numpy()
    later = np.flatnonzero(earliest != np.arange(len(table)))
    distance = np.linalg.norm(vectors[earliest[later]] - vectors[later], axis=1)
    return pd.DataFrame({"one": earliest[later], "other": later, "distance": distance, "agreement": 1.0})


def _clusters(count: int, links: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of each sample's cluster, by the order of their first samples; -1 for a sample without twins."""
    group = components(count, links)
    clustered = np.bincount(group, minlength=1)[group] > 1
    cluster = np.full(count, -1, np.int64)
    cluster[clustered], _ = pd.factorize(group[clustered])
    return cluster


def _dropped(table: pd.DataFrame, pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) which samples are non-members with a twin among members, by (pairs, 2) numbers of twins."""
    one, other = pairs.T
    member = np.array([value is True for value in table["member"]])
    outside = np.array([value is False for value in table["member"]])
    dropped = np.zeros(len(table), bool)
    dropped[other[member[one] & outside[other]]] = True
    dropped[one[outside[one] & member[other]]] = True
    return dropped


def _bins(pairs: pd.DataFrame, max_distance: float, min_agreement: float | None) -> list[DistanceBin]:
    """Counts of all pairs, before those are left out whose pixels do not agree."""
    edges = [edge for edge in DISTANCE_EDGES if edge < max_distance] + [max_distance]
    bins = []
    for low, high in itertools.pairwise(edges):
        inside = pairs[(pairs["distance"] >= low) & (pairs["distance"] < high)]
        verified = None if min_agreement is None else int((inside["agreement"] >= min_agreement).sum())
        bins.append(DistanceBin(low=low, high=high, pairs=len(inside), verified=verified))
    return bins


def _described(table: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Pairs with identity and caption of both samples instead of their numbers; see `Deduplicated`."""
    sides = []
    for side in ("one", "other"):
        rows = table.iloc[pairs[side].to_numpy()][[*IDENTITY, "caption"]].reset_index(drop=True)
        sides.append(rows.add_prefix(f"{side}_"))
    measured = pairs[["distance", "agreement"]] if "agreement" in pairs else pairs[["distance"]]
    return pd.concat([*sides, measured.reset_index(drop=True)], axis=1).sort_values("distance", ignore_index=True)


def _verified(pairs: pd.DataFrame, known: Features, storage: Storage, console: Console) -> pd.DataFrame:
    """The pairs with the agreement of their pixels; 0 where an image can no longer be read."""
    identities = known.table[IDENTITY]
    numbers = pairs[["one", "other"]].to_numpy()
    needed = identities.iloc[np.unique(numbers)]
    keys = {place: frozenset(part) for place, part in needed.groupby(["split", "shard"])["key"]}
    wanted = [ShardReader(reader.shard, keys[reader.place]) for reader in known.readers if reader.place in keys]
    left = [reader for reader in wanted if _thumbnails_of(storage, reader) is None]
    with on_ray("verify"):
        run_parts("thumbnails", left, partial(_reduce_shard, storage=storage), lambda count: count, console)
        thumbnails: dict[tuple[str, str, str], bytes] = {}
        for reader in wanted:
            thumbnails |= {(*reader.place, key): pixels for key, pixels in (_thumbnails_of(storage, reader) or {}).items()}
        named = [tuple(row) for row in identities.to_numpy()]
        shared = Shared({number: thumbnails[name] for number, name in enumerate(named) if name in thumbnails})
        starts = range(0, len(pairs), COMPARED_AT_ONCE)
        blocks = [(start, numbers[start : start + COMPARED_AT_ONCE]) for start in starts]
        agreed = np.zeros(len(pairs))
        for start, values in run_parts("compare", blocks, partial(_compare, shared), lambda result: len(result[1]), console):
            agreed[start : start + len(values)] = values
    return pairs.assign(agreement=agreed)


def _thumbnails_name(reader: ShardReader) -> str:
    return f"thumbnails/{'/'.join(reader.place)}.parquet"


def _thumbnails_of(storage: Storage, reader: ShardReader) -> dict[str, bytes] | None:
    """Thumbnails by key; none where they were not made of all samples that are wanted."""
    content = storage.read(_thumbnails_name(reader))
    if content is None:
        return None
    table = pq.read_table(io.BytesIO(content))
    attempted = set((table.schema.metadata or {}).get(b"attempted", b"").decode().split("\0"))
    if not (reader.keys or frozenset()) <= attempted:
        return None
    return dict(zip(table.column("key").to_pylist(), table.column("pixels").to_pylist(), strict=True))


def _reduce_shard(reader: ShardReader, storage: Storage) -> int:
    """Write the thumbnails of a shard's images; return how many samples were tried."""
    made: dict[str, bytes] = {}
    for item in reader.read():
        if isinstance(item, RawSample) and item.image is not None:
            thumbnail = thumbnail_of(item.image, MAX_PIXELS)
            if thumbnail is not None:
                made[item.key] = thumbnail.tobytes()
    attempted = sorted(reader.keys or ())
    table = pa.table({"key": pa.array(list(made), pa.string()), "pixels": pa.array(list(made.values()), pa.binary())})
    storage.write_table(_thumbnails_name(reader), table.replace_schema_metadata({"attempted": "\0".join(attempted)}))
    return len(attempted)


def _compare(shared: Shared[dict[int, bytes]], block: tuple[int, NDArray[np.int64]]) -> tuple[int, Sequence[float]]:
    """Agreements of a block of pairs, with the number of its first pair."""
    thumbnails = shared.get()
    start, numbers = block
    values = []
    for one, other in numbers:
        pictures = thumbnails.get(int(one)), thumbnails.get(int(other))
        values.append(0.0 if None in pictures else agreement(_thumbnail(pictures[0]), _thumbnail(pictures[1])))
    return start, values


def _thumbnail(pixels: bytes | None) -> Thumbnail:
    return np.frombuffer(pixels or b"", np.uint8).reshape(COMPARED_PX, COMPARED_PX, 3)
