from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raymia.curation.attrition import attrition
from raymia.curation.dedup import Deduplicated
from raymia.curation.embed import load_features
from raymia.curation.match import MatchingMethod, match, pair_up, sanitise, thin_strata
from raymia.data.clusters import load_clusters
from raymia.data.manifest import load_manifest
from raymia.errors import ConfigError
from tests.curation.conftest import CONSOLE


@pytest.fixture
def shifted_only(deduplicated: tuple[Deduplicated, Path]) -> str:
    return str(deduplicated[1])


def test_pairs_lie_within_the_caliper_and_are_as_many_as_can_be() -> None:
    scores = np.array([0.0, 0.1, 0.5, 0.9, 1.0, 3.0])
    member = np.array([True, False, True, False, True, True])
    assert pair_up(scores, member, 0.15).tolist() == [[0, 1], [4, 3]]


def test_strata_are_thinned_to_equal_numbers() -> None:
    random = np.random.default_rng(0)
    member = np.arange(400) < 200
    scores = random.normal(size=400) + member
    kept = thin_strata(scores, member, seed=0).ravel()
    assert member[kept].sum() == (~member[kept]).sum()
    assert scores[kept][member[kept]].mean() - scores[kept][~member[kept]].mean() < 0.15


@pytest.mark.parametrize("method", ["pairs", "strata"])
def test_a_planted_shift_is_gone_after_matching(shifted_only: str, tmp_path: Path, method: MatchingMethod) -> None:
    found = match(shifted_only, str(tmp_path), CONSOLE, method=method, fold_captions=True)
    assert found.summary.before.auc["caption"].low > 0.8
    assert found.summary.before.auc["embedding"].low > 0.5
    assert found.summary.met
    assert all(interval.low <= 0.5 for interval in found.summary.after.auc.values())
    assert found.summary.after.members == found.summary.after.non_members >= 60
    manifest, folder = load_manifest(str(tmp_path / "manifest.yaml"))
    assert manifest.fold_captions
    left = load_features(str(tmp_path / "manifest.yaml"))
    assert len(left.table) == manifest.samples == 2 * found.summary.after.members
    assert left.table["caption"].str.islower().all()
    pairs = load_clusters(manifest, folder)
    assert pairs is not None
    assert set(pairs.to_pandas().groupby("cluster")["split"].agg(lambda splits: tuple(sorted(splits)))) == {
        ("members", "non_members")
    }


def test_captions_that_tell_all_by_their_case_leave_nothing_to_match_and_the_error_says_what_would(
    shifted_only: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"too little in common.*--fold-captions"):
        match(shifted_only, str(tmp_path), CONSOLE)


def test_a_target_and_a_size_are_kept_to(shifted_only: str, tmp_path: Path) -> None:
    found = match(shifted_only, str(tmp_path), CONSOLE, target_auc=0.9, size=50, fold_captions=True)
    assert found.summary.rounds == 0
    assert (found.summary.after.members, found.summary.after.non_members) == (50, 50)
    assert all(interval.value <= 0.9 for interval in found.summary.after.auc.values())


def test_the_one_sided_rule_keeps_every_non_member(shifted_only: str, tmp_path: Path) -> None:
    found = sanitise(shifted_only, str(tmp_path))
    table = pd.read_parquet(tmp_path / "propensity.parquet")
    assert found.summary.lost["non_members"] == 0
    assert found.summary.lost["members"] == (table["propensity"] >= 0)[table["split"] == "members"].sum() > 0


def test_every_image_of_a_packed_set_is_followed_to_its_shard(shifted: Path) -> None:
    found = attrition(str(shifted))
    assert [(split.attempted, split.decoded) for split in found.splits] == [(240, 240), (300, 300)]
    assert found.statement.startswith("No sign")
