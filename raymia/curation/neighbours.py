"""Pairs of unit vectors that lie close together, among up to many millions, by faiss.

Up to `EXACT` vectors every pair is compared. Beyond that an inverted file is searched: the vectors are put into cells, and each
is compared with those of the cells nearest to it.
"""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import faiss
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console

from raymia.engine.objects import Shared, cpus_of_a_node
from raymia.engine.stage import run_parts
from raymia.engine.start import on_ray
from raymia.run.storage import Storage

EXACT = 100_000
"""Vectors up to which the search is exact."""
BLOCK = 8192
"""Vectors that are looked up at a time: the grain of progress and resume."""
PER_CELL = 400
"""Vectors in a cell, on average."""
PROBES = 96
"""Cells that a vector is compared with: those nearest to it."""
TRAINED = 64
"""Vectors for each cell that the cells are fitted to."""
ROUNDING = 1e-5
"""The search reaches so much further, lest rounding lose a pair; the distances are then held against the bound."""
MARK = "pairs/search.sha256"
"""File that says what is searched for, so that the pairs of another search are not taken for this one's."""

Vectors = NDArray[np.float32]
"""(n, width) vectors of length 1."""
PAIRS_SCHEMA = pa.schema([("one", pa.int64()), ("other", pa.int64()), ("distance", pa.float32())])


@dataclass(frozen=True)
class _Block:
    """Queries that are looked up together: those from `start` up to, not including, `stop`."""

    number: int
    start: int
    stop: int


def build_index(vectors: Vectors, seed: int = 0) -> Any:
    """An index of unit vectors for inner products.

    Args:
        vectors: (n, width), of length 1.
        seed: seed of the choice of cells.

    Returns:
        An index of faiss, with the vectors numbered as they stand in `vectors`.
    """
    count, width = vectors.shape
    if count <= EXACT:
        index: Any = faiss.IndexFlatIP(width)
    else:
        cells = max(16, 2 ** round(math.log2(count / PER_CELL)))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = seed
        index.cp.max_points_per_centroid = TRAINED
        index.cp.spherical = True
        chosen = np.random.default_rng(seed).choice(count, min(count, cells * TRAINED), replace=False)
        index.train(vectors[np.sort(chosen)])
        index.nprobe = min(PROBES, cells)
    index.add(vectors)
    return index


def search(
    index: Any, queries: Vectors, max_distance: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Pairs of a query and an indexed vector within a Euclidean distance.

    Args:
        index: see `build_index`.
        queries: (m, width), of length 1.
        max_distance: distance that pairs stay below.

    Returns:
        Number of the query, number of the vector, and their distance, of each pair.
    """
    # |a - b|^2 = 2 - 2 a.b for unit vectors.
    least = 1.0 - max_distance**2 / 2.0
    limits, products, indexed = index.range_search(queries, float(least) - ROUNDING)
    asked = np.repeat(np.arange(len(queries)), np.diff(limits).astype(np.int64))
    distances = np.sqrt(np.maximum(0.0, 2.0 - 2.0 * products.astype(np.float64)))
    near = distances < max_distance
    return asked[near], indexed[near].astype(np.int64), distances[near].astype(np.float32)


def pairs_within(
    vectors: Vectors, max_distance: float, storage: Storage, console: Console, others: Vectors | None = None, seed: int = 0
) -> pd.DataFrame:
    """Every pair of vectors closer than a distance, searched on all nodes of the cluster.

    Args:
        vectors: (n, width), of length 1.
        max_distance: Euclidean distance that pairs stay below.
        storage: folder that keeps the pairs of each block, so that a search that was stopped goes on.
        console: where progress is shown.
        others: (m, width): search pairs of one of these and one of `vectors`, instead of pairs among `vectors`.
        seed: seed of the index's cells.

    Returns:
        Columns one, other (numbers of rows) and distance, closest first; among `vectors` each pair once, one < other.

    Raises:
        RaymiaError: a block failed; what is done stays done.
    """
    vectors = np.ascontiguousarray(vectors, np.float32)
    queries = vectors if others is None else np.ascontiguousarray(others, np.float32)
    blocks = [_Block(i, start, min(start + BLOCK, len(queries))) for i, start in enumerate(range(0, len(queries), BLOCK))]
    _forget_others(storage, vectors, others, max_distance, seed)
    present = set(storage.names("pairs", ".parquet"))
    left = [block for block in blocks if _name(block) not in present]
    if left:
        with on_ray("search"):
            # In the object store both are shared by all processes of a node, not copied to each.
            shared_index = Shared(faiss.serialize_index(build_index(vectors, seed)))
            shared_queries = Shared(queries)
            work = partial(_search_block, shared_index, shared_queries, max_distance, others is None, storage)
            # faiss uses all cores by itself, and a copy of the index takes memory: one block at a time on each node.
            run_parts("search", left, work, lambda count: count, console, cpus=cpus_of_a_node())
    tables = [pq.read_table(io.BytesIO(content)) for content in storage.read_many([_name(block) for block in blocks])]
    pairs: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    return pairs.sort_values(["distance", "one", "other"], ignore_index=True)


def _forget_others(storage: Storage, vectors: Vectors, others: Vectors | None, max_distance: float, seed: int) -> None:
    """Remove the pairs of another search in the same folder."""
    digest = hashlib.sha256(repr((max_distance, seed)).encode())
    for part in (vectors, others):
        digest.update(b"" if part is None else np.ascontiguousarray(part).data)
    mark = digest.hexdigest().encode()
    if storage.read(MARK) != mark:
        storage.remove(storage.names("pairs", ".parquet"))
        storage.write(MARK, mark)


class _LoadedIndex:
    """The index that this process has read from the object store, kept for its next block."""

    key: Shared[Any] | None = None
    index: Any = None


def _search_block(
    shared_index: Shared[Any],
    shared_queries: Shared[Vectors],
    max_distance: float,
    among: bool,
    storage: Storage,
    block: _Block,
) -> int:
    """Write the pairs of a block of queries; return how many queries it has.

    Args:
        among: whether the queries are the indexed vectors themselves, so that each pair is found twice.
    """
    if shared_index != _LoadedIndex.key:
        _LoadedIndex.index, _LoadedIndex.key = faiss.deserialize_index(shared_index.get()), shared_index
    queries = shared_queries.get()[block.start : block.stop]
    asked, indexed, distances = search(_LoadedIndex.index, queries, max_distance)
    asked = asked + block.start
    kept = asked < indexed if among else np.ones(len(asked), bool)
    storage.write_table(_name(block), pa.table([asked[kept], indexed[kept], distances[kept]], schema=PAIRS_SCHEMA))
    return block.stop - block.start


def _name(block: _Block) -> str:
    return f"pairs/{block.number:06d}.parquet"
