"""Near-duplicates and matched pairs of a manifest: which samples must never stand on both sides of a fold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from raymia.data.manifest import Manifest, within
from raymia.data.tables import read_table

COLUMNS = ("split", "key", "cluster")


def load_clusters(manifest: Manifest, folder: str) -> pa.Table | None:
    """The manifest's clusters as split, key, cluster and, where the file has it, shard, all text; none where it names none.

    Args:
        folder: where relative paths of the manifest start.

    Raises:
        ConfigError: the file cannot be read or lacks a column.
    """
    if manifest.clusters is None:
        return None
    table = read_table(within(folder, manifest.clusters), COLUMNS, "clusters")
    return pa.table({name: table[name].astype(str) for name in (*COLUMNS, "shard") if name in table})


def join_clusters(table: pd.DataFrame, clusters: pa.Table | None) -> pd.DataFrame:
    """A table of samples with their `cluster`, empty for those that stand in none."""
    if clusters is None:
        return table
    found = clusters.to_pandas()
    identity = [name for name in ("split", "shard", "key") if name in found]
    return table.merge(found.drop_duplicates(identity), on=identity, how="left")


def components(count: int, links: NDArray[np.int64]) -> NDArray[np.int64]:
    """(count,) number of the group that each sample belongs to when linked samples belong together, by order of appearance.

    Args:
        links: (n, 2) numbers of samples.
    """
    graph = coo_matrix((np.ones(len(links), np.int8), (links[:, 0], links[:, 1])), (count, count))
    _, found = connected_components(graph, directed=False)
    numbers, _ = pd.factorize(found)
    return np.asarray(numbers, np.int64)
