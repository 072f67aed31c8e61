from __future__ import annotations

from pathlib import Path

import pytest

from raymia.curation.dedup import Deduplicated, dedup
from raymia.curation.verification import MIN_AGREEMENT
from raymia.data.clusters import load_clusters
from raymia.data.index import summarise_shard, verify
from raymia.data.manifest import load_manifest
from raymia.data.selection import shard_readers
from raymia.errors import ConfigError
from raymia.report.pairs_page import write_pairs_page
from raymia.run.storage import Storage
from tests.curation.conftest import CONSOLE, TWINS


def test_planted_twins_are_found_and_little_else_is_taken_for_one(deduplicated: tuple[Deduplicated, Path]) -> None:
    pairs = deduplicated[0].pairs
    planted = pairs["other_key"].str.split("_").str[-1] == pairs["one_key"]
    assert planted.sum() >= 0.95 * TWINS
    assert planted.sum() >= 0.95 * len(pairs)
    assert (pairs["agreement"] >= MIN_AGREEMENT).all()


def test_a_non_member_with_a_twin_is_dropped_and_every_twin_is_named(
    deduplicated: tuple[Deduplicated, Path],
) -> None:
    result, manifest_file = deduplicated
    manifest, folder = load_manifest(str(manifest_file))
    assert manifest == result.manifest
    readers = shard_readers(manifest, folder)
    assert verify(manifest, [summarise_shard(reader) for reader in readers]) == []
    kept = {(reader.place[0], key) for reader in readers for key in reader.keys or ()}
    across = result.pairs[result.pairs["one_split"] != result.pairs["other_split"]]
    assert not {("non_members", key) for key in across["other_key"]} & kept
    assert {("members", key) for key in across["one_key"]} <= kept
    assert result.summary.dropped == {"non_members": across["other_key"].nunique()}
    clusters = load_clusters(manifest, folder)
    assert clusters is not None
    named = clusters.to_pandas().groupby("cluster")["key"].agg(set)
    assert all(any({one, other} <= keys for keys in named) for one, other in across[["one_key", "other_key"]].to_numpy())


def test_without_looking_at_pixels_what_merely_looks_alike_counts_too(
    shifted: Path, deduplicated: tuple[Deduplicated, Path], tmp_path: Path
) -> None:
    by_distance = dedup(str(shifted), str(tmp_path), CONSOLE, None, 0.2)
    assert len(by_distance.pairs) == sum(part.pairs for part in by_distance.summary.bins)
    assert by_distance.summary.bins[-1].high == 0.2
    assert [part.verified for part in by_distance.summary.bins] == [None, None]


def test_features_that_are_not_there_are_asked_for_by_the_command_that_makes_them(shifted: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there are none; compute them: raymia data embed"):
        dedup(str(shifted), str(tmp_path / "out"), CONSOLE, str(tmp_path / "features"))


def test_the_sheet_shows_pairs_with_their_splits_and_distances(deduplicated: tuple[Deduplicated, Path]) -> None:
    result, manifest_file = deduplicated
    page = Path(write_pairs_page(result, Storage(str(manifest_file.parent)))).read_text()
    assert page.count('<img src="data:image/jpeg') >= 48
    assert "Closest across splits" in page
    closest = result.pairs[result.pairs["one_split"] != result.pairs["other_split"]].iloc[0]
    assert f"distance {closest['distance']:.3f}, agreement {closest['agreement']:.3f}" in page


def test_a_manifest_is_never_overwritten_by_what_is_made_of_it(shifted: Path) -> None:
    with pytest.raises(ConfigError, match="give another folder"):
        dedup(str(shifted), str(shifted.parent), CONSOLE)
