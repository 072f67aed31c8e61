from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from raymia.data.manifest import Manifest, Shard, labels_hold
from raymia.data.prompts import Prompts
from raymia.data.selection import IDENTITY, SELECTED_MISSING, ShardReader, fold, shard_readers
from raymia.data.tar import RawSample, ShardEnd
from raymia.errors import ConfigError
from raymia.scan.batches import ShardWork, batches
from tests.conftest import good_members

Write = Callable[[str, list[tuple[str, bytes]]], Path]


def test_only_selected_samples_are_read_numbered_and_counted(write_tar: Write) -> None:
    shard = Shard(split="in", name="m", url=str(write_tar("m.tar", good_members(6))), member=True)
    *samples, end = ShardReader(shard, frozenset({"0001", "0004"})).read()
    assert [(item.index, item.key) for item in samples if isinstance(item, RawSample)] == [(0, "0001"), (1, "0004")]
    assert isinstance(end, ShardEnd)
    assert (end.samples, end.fault) == (2, None)


def test_each_selected_sample_that_is_not_in_the_shard_is_counted_with_its_key(write_tar: Write) -> None:
    shard = Shard(split="in", name="m", url=str(write_tar("m.tar", good_members(2))), member=True)
    *samples, end = ShardReader(shard, frozenset({"0001", "9999", "8888"})).read()
    assert isinstance(end, ShardEnd)
    assert (end.samples, end.fault) == (3, None)
    found = [(item.index, item.key, item.fault and item.fault.reason) for item in samples if isinstance(item, RawSample)]
    assert found == [(0, "0001", None), (1, "8888", SELECTED_MISSING), (2, "9999", SELECTED_MISSING)]


def test_selected_samples_of_a_shard_that_is_not_there_or_is_cut_are_counted_too(write_tar: Write, tmp_path: Path) -> None:
    gone = Shard(split="in", name="gone", url=str(tmp_path / "gone.tar"), member=True)
    *samples, end = ShardReader(gone, frozenset({"a", "b"})).read()
    assert isinstance(end, ShardEnd)
    assert (end.samples, len(samples), end.fault and end.fault.reason) == (2, 2, "missing_shard")
    path = write_tar("cut.tar", good_members(3))
    path.write_bytes(path.read_bytes()[:-20_000])
    cut = Shard(split="in", name="cut", url=str(path), member=True)
    *samples, end = ShardReader(cut, frozenset({"0000", "0002", "x"})).read()
    assert isinstance(end, ShardEnd)
    keys = [item.key for item in samples if isinstance(item, RawSample)]
    assert sorted(keys) == ["0000", "0002", "x"], "each once, wherever the shard breaks off"
    assert end.samples == 3
    assert end.fault is not None


def test_missing_samples_stand_in_units_that_resume_like_others(write_tar: Write) -> None:
    shard = Shard(split="in", name="m", url=str(write_tar("m.tar", good_members(3))), member=True)
    reader = ShardReader(shard, frozenset({"0000", "0002", "x", "y", "z"}))
    whole = [item for item in reader.read() if isinstance(item, RawSample)]
    rest = [item for item in reader.read(lambda index: index // 2 != 1) if isinstance(item, RawSample)]
    assert [item.index for item in whole] == [0, 1, 2, 3, 4]
    assert [item.key for item in rest] == [item.key for item in whole if item.index // 2 != 1]
    work = ShardWork(reader, frozenset({0}))
    rows = [row for table in batches(work, 2, 2, Prompts("own", 0)) for row in table.to_pylist()]
    assert [(row["unit"], len(row["samples"] or [])) for row in rows[:-1]] == [(1, 2), (2, 1)]
    assert rows[-1]["end"]["samples"] == 5


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "names no sample"),
        ([("in", "m", "0001"), ("in", "m", "0001")], "names in/m/0001 twice"),
        ([("in", "m0", "0001")], "1 shards that the manifest does not have, such as in/m0; did you mean `m`"),
        ([("inn", "m", "0001")], "such as inn/m; splits are in"),
        ([("in", "m", "0001"), ("in", "m", None)], "row 2 lacks one of split, shard, key"),
    ],
)
def test_a_selection_that_names_what_is_not_there_is_an_error(
    write_tar: Write, tmp_path: Path, rows: list[tuple[str, ...]], message: str
) -> None:
    write_tar("m.tar", good_members(2))
    pd.DataFrame(rows, columns=IDENTITY, dtype=object).to_parquet(tmp_path / "s.parquet")
    split = {"name": "in", "member": True, "shards": ["m.tar"]}
    manifest = Manifest.model_validate({"name": "x", "splits": [split], "selection": "s.parquet"})
    with pytest.raises(ConfigError, match=message):
        shard_readers(manifest, str(tmp_path))


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
