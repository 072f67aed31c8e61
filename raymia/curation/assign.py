"""Membership drawn at random, by concept or cluster, for those who train a model themselves: the gold standard."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel

from raymia.curation.derive import derive, output_folder
from raymia.data.clusters import load_clusters
from raymia.data.manifest import Manifest, Shard, load_manifest, name_shards
from raymia.data.selection import IDENTITY, ShardReader, shard_readers
from raymia.data.tables import read_table
from raymia.data.tar import RawSample
from raymia.errors import ConfigError

MEMBER_SPLIT, NON_MEMBER_SPLIT = "members", "non_members"
"""Names of the two splits that are made."""


class Assignment(BaseModel):
    """The result of `assign`."""

    manifest: Manifest
    groups: int
    """How many groups were assigned, a sample by itself counting as one."""
    members: int
    non_members: int
    unreadable: int
    """Samples without a readable image, which are left out."""


def assign(
    manifest_file: str, out: str, groups: str | None = None, column: str = "cluster", share: float = 0.5, seed: int = 0
) -> Assignment:
    """Split a manifest's samples into members, to train on, and non-members, at random by group.

    All samples of a group (a concept, a cluster of near-duplicates, a series) go to one side, so that no non-member has a
    relative among the members.

    Args:
        manifest_file: the manifest whose samples are drawn; its own labels are set aside.
        out: folder for the new manifest and `selection.parquet`.
        groups: Parquet or CSV of split, key and `column`; by default the manifest's clusters. A sample that is not named is a
            group of its own.
        column: column that holds the group's name.
        share: share of the samples that become members, 0 to 1; met as nearly as whole groups allow.
        seed: seed of the random draw.

    Raises:
        ConfigError: the groups cannot be read, or a side would be empty.
    """
    storage = output_folder(out, manifest_file)
    manifest, folder = load_manifest(manifest_file)
    readers = shard_readers(manifest, folder)
    identities, unreadable = _readable(readers)
    table = pd.DataFrame(identities, columns=IDENTITY)
    group = _groups(table, manifest, folder, groups, column)
    members, count = _drawn(group, share, seed)
    if members.all() or not members.any():
        raise ConfigError(f"manifest {manifest_file}: {count} groups do not split into members and non-members")
    table["split"] = np.where(members, MEMBER_SPLIT, NON_MEMBER_SPLIT)
    shards, names = _renamed([reader.shard for reader in readers])
    table["shard"] = [names[split, shard] for split, shard, _ in identities]
    made = derive(
        manifest,
        folder,
        storage,
        table,
        shards,
        {MEMBER_SPLIT: True, NON_MEMBER_SPLIT: False},
        clusters=None,
        features=None,
        attrition=None,
        valid_for_models=("*",),
        provenance=f"members drawn at random by {column}, seed {seed}, from {manifest.name}: train on the members alone",
    )
    counts = table["split"].value_counts()
    return Assignment(
        manifest=made,
        groups=count,
        members=int(counts[MEMBER_SPLIT]),
        non_members=int(counts[NON_MEMBER_SPLIT]),
        unreadable=unreadable,
    )


def _readable(readers: list[ShardReader]) -> tuple[list[tuple[str, str, str]], int]:
    """Split, shard and key of each sample that has an image, and how many samples have none."""
    identities, unreadable = [], 0
    for reader in readers:
        for item in reader.read(with_images=False):
            if isinstance(item, RawSample):
                unreadable += item.fault is not None
                if item.fault is None:
                    identities.append((*reader.place, item.key))
    return identities, unreadable


def _drawn(group: pd.Series, share: float, seed: int) -> tuple[NDArray[np.bool_], int]:
    """(n,) which samples are members, where whole groups are drawn; and how many groups there are."""
    sizes = group.value_counts()
    order = np.random.default_rng(seed).permutation(np.array(sorted(sizes.index), dtype=object))
    filled = np.cumsum(sizes.loc[order].to_numpy())
    # Groups in random order until the share is filled; the one that straddles the mark goes where it overshoots least.
    cut = int(np.argmin(np.abs(np.r_[0, filled] - share * len(group))))
    return group.isin(order[:cut]).to_numpy(), len(order)


def _renamed(shards: list[Shard]) -> tuple[list[Shard], Mapping[tuple[str, str], str]]:
    """Every shard as a shard of both new splits; and its new name by new split and old split and name."""
    made: list[Shard] = []
    names: dict[tuple[str, str], str] = {}
    for split, member in ((MEMBER_SPLIT, True), (NON_MEMBER_SPLIT, False)):
        renamed = name_shards(split, member, [shard.url for shard in shards])
        made += renamed
        names |= {(shard.split, shard.name): new.name for shard, new in zip(shards, renamed, strict=True)}
    return made, names


def _groups(table: pd.DataFrame, manifest: Manifest, folder: str, groups: str | None, column: str) -> pd.Series:
    """(n,) name of each sample's group; one of its own for a sample that is in none."""
    if groups is None:
        clusters = load_clusters(manifest, folder)
        if clusters is None:
            raise ConfigError(
                f"manifest {manifest.name}: names no clusters to split by; give --groups TABLE of split, key and {column}, "
                "or run `raymia data dedup` first"
            )
        assigned = clusters.to_pandas().rename(columns={"cluster": column})
    else:
        assigned = read_table(groups, ("split", "key", column), "groups", others=False, text=(*IDENTITY, column))
    identity = [name for name in IDENTITY if name in assigned]
    joined = table.merge(assigned.astype(dict.fromkeys(identity, str)).drop_duplicates(identity), on=identity, how="left")
    if joined[column].isna().all():
        raise ConfigError(f"groups {groups or manifest.clusters}: names none of the samples of manifest {manifest.name}")
    alone = pd.Series([f"\0{i}" for i in range(len(joined))])
    return joined[column].astype("string").fillna(alone).astype(object)
