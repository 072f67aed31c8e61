"""Membership drawn at random, by concept or cluster, for those who train a model themselves: the gold standard."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from pydantic import BaseModel

from raymia.curation.derive import derive, output_folder
from raymia.data.clusters import load_clusters
from raymia.data.manifest import Manifest, Shard, load_manifest, name_shards
from raymia.data.selection import IDENTITY, shard_readers
from raymia.data.tables import read_table
from raymia.data.tar import RawSample
from raymia.errors import ConfigError

MEMBERS, NON_MEMBERS = "members", "non_members"


class Assignment(BaseModel):
    """The result of `assign`."""

    manifest: Manifest
    groups: int
    members: int
    non_members: int
    unreadable: int
    """Samples that have no image, which are left out."""


def assign(
    manifest_file: str, out: str, groups: str | None = None, column: str = "cluster", share: float = 0.5, seed: int = 0
) -> Assignment:
    """Split a manifest's samples into members, to train on, and non-members, at random by group.

    All samples of a group (a concept, a cluster of near-duplicates, a series) go to one side, so that no non-member has a
    relative among the members.

    Args:
        manifest_file: its own labels are set aside.
        out: folder for the manifest and `selection.parquet`.
        groups: Parquet or CSV of split, key and `column`; by default the manifest's clusters. A sample that is not named is a
            group of its own.
        column: of the group's name.
        share: of samples that become members, about.
        seed: of the draw.

    Raises:
        ConfigError: the groups cannot be read, or a side would be empty.
    """
    storage = output_folder(out, manifest_file)
    manifest, folder = load_manifest(manifest_file)
    readers = shard_readers(manifest, folder)
    rows, unreadable = [], 0
    for reader in readers:
        for item in reader.read(with_images=False):
            if isinstance(item, RawSample):
                unreadable += item.fault is not None
                if item.fault is None:
                    rows.append((*reader.place, item.key))
    table = pd.DataFrame(rows, columns=IDENTITY)
    named = _groups(table, manifest, folder, groups, column)
    sizes = named.value_counts()
    order = np.random.default_rng(seed).permutation(np.array(sorted(sizes.index), dtype=object))
    filled = np.cumsum(sizes.loc[order].to_numpy())
    # Groups in random order until the share is filled; the one that straddles the mark goes where it overshoots least.
    cut = int(np.argmin(np.abs(np.r_[0, filled] - share * len(table))))
    members = named.isin(order[:cut]).to_numpy()
    if members.all() or not members.any():
        raise ConfigError(f"manifest {manifest_file}: {len(order)} groups do not split into members and non-members")
    table["split"] = np.where(members, MEMBERS, NON_MEMBERS)
    shards, names = _renamed([reader.shard for reader in readers])
    table["shard"] = [names[str(split), str(shard)] for split, shard, _ in rows]
    made = derive(
        manifest,
        folder,
        storage,
        table,
        shards,
        {MEMBERS: True, NON_MEMBERS: False},
        clusters=None,
        features=None,
        attrition=None,
        valid_for_models=("*",),
        provenance=f"members drawn at random by {column}, seed {seed}, from {manifest.name}: train on the members alone",
    )
    counts = table["split"].value_counts()
    return Assignment(
        manifest=made,
        groups=len(order),
        members=int(counts[MEMBERS]),
        non_members=int(counts[NON_MEMBERS]),
        unreadable=unreadable,
    )


def _renamed(shards: list[Shard]) -> tuple[list[Shard], Mapping[tuple[str, str], str]]:
    """Every shard as a shard of both new splits, and the names that they have there."""
    made: list[Shard] = []
    names: dict[tuple[str, str], str] = {}
    for split, member in ((MEMBERS, True), (NON_MEMBERS, False)):
        renamed = name_shards(split, member, [shard.url for shard in shards])
        made += renamed
        names |= {(shard.split, shard.name): new.name for shard, new in zip(shards, renamed, strict=True)}
    return made, names


def _groups(table: pd.DataFrame, manifest: Manifest, folder: str, groups: str | None, column: str) -> pd.Series:
    if groups is None:
        clusters = load_clusters(manifest, folder)
        if clusters is None:
            raise ConfigError(
                f"manifest {manifest.name}: names no clusters to split by; give --groups TABLE of split, key and {column}, "
                "or run `raymia data dedup` first"
            )
        found = clusters.to_pandas().rename(columns={"cluster": column})
    else:
        found = read_table(groups, ("split", "key", column), "groups")
    identity = [name for name in IDENTITY if name in found]
    joined = table.merge(found.astype(dict.fromkeys(identity, str)).drop_duplicates(identity), on=identity, how="left")
    if joined[column].isna().all():
        raise ConfigError(f"groups {groups or manifest.clusters}: names none of the samples of manifest {manifest.name}")
    alone = pd.Series([f"\0{i}" for i in range(len(joined))])
    return joined[column].astype("string").fillna(alone).astype(object)
