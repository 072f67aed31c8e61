from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from raymia.data.manifest import Manifest, Shard, labels_hold
from raymia.data.selection import ShardReader, fold, shard_readers
from raymia.data.tar import RawSample, ShardEnd
from tests.conftest import good_members

Write = Callable[[str, list[tuple[str, bytes]]], Path]


def test_only_selected_samples_are_read_numbered_and_counted(write_tar: Write) -> None:
    shard = Shard(split="in", name="m", url=str(write_tar("m.tar", good_members(6))), member=True)
    *samples, end = ShardReader(shard, frozenset({"0001", "0004"})).read()
    assert [(item.index, item.key) for item in samples if isinstance(item, RawSample)] == [(0, "0001"), (1, "0004")]
    assert isinstance(end, ShardEnd)
    assert (end.samples, end.fault) == (2, None)


def test_a_selected_sample_that_is_not_in_the_shard_is_a_fault_of_the_shard(write_tar: Write) -> None:
    shard = Shard(split="in", name="m", url=str(write_tar("m.tar", good_members(2))), member=True)
    *_, end = ShardReader(shard, frozenset({"0001", "9999"})).read()
    assert isinstance(end, ShardEnd)
    assert end.fault is not None
    assert end.fault.reason == "selected_missing"


def test_a_manifest_with_a_selection_reads_these_samples_and_folds_captions(write_tar: Write, tmp_path: Path) -> None:
    write_tar("m.tar", [(name, text.upper() if name.endswith(".txt") else text) for name, text in good_members(3)])
    pd.DataFrame({"split": ["in"], "shard": ["m"], "key": ["0002"]}).to_parquet(tmp_path / "s.parquet")
    split = {"name": "in", "member": True, "shards": ["m.tar"]}
    content = {"name": "x", "splits": [split], "selection": "s.parquet", "fold_captions": True}
    (reader,) = shard_readers(Manifest.model_validate(content), str(tmp_path))
    (sample,) = [item for item in reader.read() if isinstance(item, RawSample)]
    assert (sample.key, sample.caption) == ("0002", "picture number 2")
    assert fold("  A\n b ") == "a b"


def test_labels_hold_by_the_whole_name_or_its_last_part() -> None:
    split = {"name": "in", "member": True, "shards": ["m.tar"]}
    manifest = Manifest.model_validate({"name": "x", "splits": [split], "valid_for_models": ["stable-diffusion-v1-*"]})
    assert labels_hold(manifest, "CompVis/stable-diffusion-v1-4")
    assert labels_hold(manifest, "models/Stable-Diffusion-v1-5/")
    assert not labels_hold(manifest, "stabilityai/stable-diffusion-2-1")
