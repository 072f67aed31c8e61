"""Near-duplicates of a manifest: which samples must never stand on both sides of a fold."""

from __future__ import annotations

import posixpath

import pyarrow as pa

from raymia.data.manifest import Manifest
from raymia.data.tables import read_table

COLUMNS = ("split", "key", "cluster")


def load_clusters(manifest: Manifest, folder: str) -> pa.Table | None:
    """The manifest's clusters as split, key and cluster, all text; none where it names none.

    Args:
        folder: where relative paths of the manifest start.

    Raises:
        ConfigError: the file cannot be read or lacks a column.
    """
    if manifest.clusters is None:
        return None
    source = manifest.clusters
    path = source if "://" in source or posixpath.isabs(source) else posixpath.join(folder, source)
    table = read_table(path, COLUMNS, "clusters")
    return pa.table({name: table[name].astype(str) for name in COLUMNS})
