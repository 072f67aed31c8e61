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

CLUSTER_COLUMNS = ("split", "key", "cluster")


def load_clusters(manifest: Manifest, folder: str) -> pa.Table | None:
    """The manifest's clusters as split, key, cluster and, where the file has it, shard, all text; none where it names none.

    Args:
        manifest: the manifest, as `raymia.data.manifest.load_manifest` gives it.
        folder: where relative paths of the manifest start.

    Raises:
        ConfigError: the file cannot be read or lacks a column.
    """
    if manifest.clusters is None:
        return None
    columns = (*CLUSTER_COLUMNS, "shard")
    table = read_table(within(folder, manifest.clusters), CLUSTER_COLUMNS, "clusters", others=False, text=columns)
    return pa.table({name: pa.array(table[name], pa.string(), from_pandas=True) for name in columns if name in table})


def join_clusters(table: pd.DataFrame, clusters: pa.Table | None) -> pd.DataFrame:
    """Add the column `cluster` to a table of samples; it is empty for a sample that belongs to no cluster.

    Args:
        table: a row per sample, with split, shard and key.
        clusters: the table of `load_clusters`; with none, `table` is returned as it is.
    """
    if clusters is None:
        return table
    named = clusters.to_pandas()
    identity = [name for name in ("split", "shard", "key") if name in named]
    return table.merge(named.drop_duplicates(identity), on=identity, how="left")


def components(count: int, links: NDArray[np.int64]) -> NDArray[np.int64]:
    """(count,) number of the group that each sample belongs to when linked samples belong together.

    Groups are numbered in the order in which their first samples appear.

    Args:
        count: the number of samples.
        links: (n, 2) numbers of the two samples of each link, from 0 to `count` - 1.
    """
    graph = coo_matrix((np.ones(len(links), np.int8), (links[:, 0], links[:, 1])), (count, count))
    _, labels = connected_components(graph, directed=False)
    numbers, _ = pd.factorize(labels)
    return np.asarray(numbers, np.int64)
