"""Manifests made from others: the same shards, fewer samples, or other splits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from raymia.curation.embed import Features
from raymia.curation.output import MANIFEST_FILE as MANIFEST_FILE
from raymia.curation.output import write_manifest as write_manifest
from raymia.data.manifest import Manifest, Shard, Split, within
from raymia.data.selection import IDENTITY
from raymia.errors import ConfigError, first_line
from raymia.run.ledger import CLUSTERS_FILE
from raymia.run.storage import Storage

SELECTION_FILE = "selection.parquet"


def derive(
    manifest: Manifest,
    folder: str,
    out: Storage,
    kept: pd.DataFrame,
    shards: list[Shard],
    labels: dict[str, Any],
    **fields: Any,
) -> Manifest:
    """Write a manifest of chosen samples beside their list.

    Args:
        manifest: the manifest that the samples are of.
        folder: where its relative paths start.
        out: folder of the new manifest, which is written as `manifest.yaml`, and of `selection.parquet`.
        kept: split, shard and key of the samples that count, by the new splits' names.
        shards: shards of the new splits.
        labels: membership by new split.
        fields: fields of the manifest that change; relative paths in them start at `out`.

    Returns:
        The new manifest.

    Raises:
        ConfigError: a split would be empty.
    """
    table = kept[IDENTITY].astype(str).sort_values(IDENTITY, ignore_index=True)
    counts = table["split"].value_counts()
    named = {(str(split), str(shard)) for split, shard in table[["split", "shard"]].drop_duplicates().to_numpy()}
    splits = []
    for split, label in labels.items():
        urls = [relative(shard.url, out.url) for shard in shards if (shard.split, shard.name) in named and shard.split == split]
        if not urls:
            raise ConfigError(f"split {split}: no sample would be left of it")
        splits.append(Split(name=split, member=label, shards=tuple(urls), samples=int(counts[split])))
    paths = {
        name: relative(within(folder, str(path)), out.url)
        for name in ("clusters", "attrition", "features")
        if (path := getattr(manifest, name)) is not None
    }
    changed = {**paths, **fields, "splits": tuple(splits), "selection": SELECTION_FILE}
    made = Manifest.model_validate({**manifest.model_dump(), **changed})
    write_frame(out, SELECTION_FILE, table)
    write_manifest(out, made)
    return made


def derive_from(known: Features, out: Storage, kept: pd.DataFrame, **fields: Any) -> Manifest:
    """Write a manifest of those samples of the same splits that are kept, with their features; see `derive`.

    Args:
        known: the samples' features.
        out: folder of the new manifest.
        kept: split, shard and key of the samples that stay.
        fields: fields of the manifest that change.
    """
    return derive(
        known.manifest,
        known.folder,
        out,
        kept,
        [reader.shard for reader in known.readers],
        {split.name: split.member for split in known.manifest.splits},
        **{"features": relative(known.url, out.url), **fields},
    )


def output_folder(out: str, source: str | None = None) -> Storage:
    """The folder that a manifest is written to, made where it is not there.

    Args:
        out: local path or fsspec URL of the folder.
        source: the manifest that the new one is made from, which must not be overwritten.

    Raises:
        ConfigError: the folder cannot be made, or holds the source.
    """
    try:
        storage = Storage(out)
        storage.make()
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"--out {out}: cannot be made ({first_line(error)})") from error
    if source is not None and os.path.realpath(source) == os.path.realpath(f"{storage.url}/{MANIFEST_FILE}"):
        raise ConfigError(f"--out {out}: holds {source} itself; give another folder")
    return storage


def write_frame(out: Storage, name: str, table: pd.DataFrame) -> None:
    """Write a table as Parquet, whole or not at all."""
    out.write_table(name, pa.Table.from_pandas(table, preserve_index=False))


def write_clusters(out: Storage, samples: pd.DataFrame, numbers: NDArray[Any]) -> None:
    """Write the cluster of each sample, named after its number."""
    named = samples[IDENTITY].assign(cluster=[f"c{number:06d}" for number in numbers])
    write_frame(out, CLUSTERS_FILE, named.astype(str))


def relative(url: str, folder: str) -> str:
    """A local path as seen from a local folder; any other URL as it is."""
    if "://" in url or "://" in folder:
        return url if "://" in url else str(Path(url).resolve())
    return os.path.relpath(url, folder)
