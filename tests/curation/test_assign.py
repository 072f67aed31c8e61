from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from raymia.curation.assign import assign
from raymia.curation.dedup import Deduplicated
from raymia.data.clusters import load_clusters
from raymia.data.index import summarise_shard, verify
from raymia.data.manifest import load_manifest
from raymia.data.selection import shard_readers
from raymia.data.tar import RawSample
from raymia.errors import ConfigError


def drawn(folder: Path) -> dict[str, set[str]]:
    """Keys by new split."""
    manifest, start = load_manifest(str(folder / "manifest.yaml"))
    readers = shard_readers(manifest, start)
    assert verify(manifest, [summarise_shard(reader) for reader in readers]) == []
    found: dict[str, set[str]] = {split.name: set() for split in manifest.splits}
    for reader in readers:
        found[reader.place[0]] |= reader.keys or set()
    return found


def test_twins_go_to_one_side_and_the_old_labels_are_set_aside(
    deduplicated: tuple[Deduplicated, Path], shifted: Path, tmp_path: Path
) -> None:
    clusters = deduplicated[1].parent / "clusters.parquet"
    found = assign(str(shifted), str(tmp_path), str(clusters))
    sides = drawn(tmp_path)
    assert abs(found.members - found.non_members) <= 2
    assert found.members + found.non_members == 540
    named = load_clusters(*load_manifest(str(deduplicated[1])))
    assert named is not None
    for keys in named.to_pandas().groupby("cluster")["key"].agg(set):
        assert keys <= sides["members"] or keys <= sides["non_members"]
    old = {reader.place[0]: reader for reader in shard_readers(*load_manifest(str(shifted)))}
    assert set(old) == {"members", "non_members"}
    assert any("_" in key for key in sides["members"])


def test_concepts_of_a_table_are_drawn_whole_and_the_same_seed_draws_the_same(testbed_concepts: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        assign("testbed", str(tmp_path / name), str(testbed_concepts), "concept", 0.25, seed)
    sides = drawn(tmp_path / "one")
    assert sides == drawn(tmp_path / "again") != drawn(tmp_path / "other")
    concepts = pd.read_csv(testbed_concepts).set_index("key")["concept"]
    assert not {concepts[key] for key in sides["members"]} & {concepts[key] for key in sides["non_members"]}
    assert 0.1 < len(sides["members"]) / 1024 < 0.4


def test_a_set_without_groups_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no clusters to split by; give --groups"):
        assign("testbed", str(tmp_path))


@pytest.fixture
def testbed_concepts(categories: dict[str, str], tmp_path: Path) -> Path:
    """A group for each kind of picture."""
    readers = shard_readers(*load_manifest("testbed"))
    items = [(reader.place[0], item) for reader in readers for item in reader.read(with_images=False)]
    rows = [(split, item.key) for split, item in items if isinstance(item, RawSample)]
    table = pd.DataFrame(rows, columns=["split", "key"])
    path = tmp_path / "concepts.csv"
    table.assign(concept=table["key"].map(categories)).to_csv(path, index=False)
    return path
