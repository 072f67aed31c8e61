"""A run directory that somebody changed: every command says which file it is and what to do, and never shows a traceback."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymia.data.manifest import Shard
from raymia.data.tar import RETRIED, Fault, ShardEnd
from raymia.errors import RaymiaError
from raymia.evaluation.metrics import evaluate_run
from raymia.run.columns import QUARANTINE_SCHEMA
from raymia.run.files import DamagedRunError
from raymia.run.ledger import Ledger
from raymia.run.record import PROGRESS_FILE, SignalRecord, now_text
from raymia.run.status import read_status
from raymia.run.storage import HOST
from tests.run.records import scan_record

Damage = Callable[[Path], object]


def rows(split: str, unit: int, first: int = 0) -> pa.Table:
    keys = [f"{i:03d}" for i in range(first, first + 12)]
    found = {"key": keys, "split": [split] * 12, "shard": ["s"] * 12, "unit": [unit] * 12, "index": range(12)}
    found |= {"member": [split == "in"] * 12, "caption": ["x"] * 12, "flags": [""] * 12}
    found |= {"loss": [float((i * 5) % 12) + (split == "in") for i in range(12)]}
    return pa.table(found)


def bad(split: str) -> pa.Table:
    row = {"split": split, "shard": "s", "unit": 0, "key": "999", "stage": "decode", "reason": "corrupt_image"}
    return pa.Table.from_pylist([row], schema=QUARANTINE_SCHEMA)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of two shards."""
    ledger = Ledger(str(tmp_path / "run"))
    for split in ("in", "out"):
        ledger.commit_unit(split, "s", 0, rows(split, 0), bad(split))
        ledger.commit_unit(split, "s", 1, rows(split, 1, 50), QUARANTINE_SCHEMA.empty_table())
        ledger.finish_shard(split, "s", ShardEnd(25, 100, None), 2)
    shards = [Shard(split=split, name="s", url="s.tar", member=split == "in") for split in ("in", "out")]
    signals = [SignalRecord(name="loss", attack="loss", access="grey", primary=True)]
    ledger.write_run(scan_record(shards=shards, signals=signals, finished=now_text(), counts=ledger.counts(None)))
    return tmp_path / "run"


def said(act: Callable[[], object]) -> str:
    with pytest.raises(RaymiaError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_finished_run_that_nobody_changed_is_read(run: Path) -> None:
    assert read_status(str(run)).samples == 50
    assert evaluate_run(Ledger(str(run))).metrics.counts.quarantined == 2


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b"[1]",
        b"null",
        b"3",
        b"",
        b"{",
        b"\xff\xfe\x00binary",
        b"[" * 100_000,
        b'{"job": {}, "format": true}',
        b'{"evaluations": 3}',
    ],
)
def test_a_run_json_that_is_none_is_named(run: Path, content: bytes) -> None:
    (run / "run.json").write_bytes(content)
    for act in (lambda: read_status(str(run)), lambda: evaluate_run(Ledger(str(run))), Ledger(str(run)).read_run):
        assert "run.json: cannot be read" in said(act)


@pytest.mark.parametrize("field", ["started", "attempted", "finished"])
@pytest.mark.parametrize("value", ["yesterday", "2026-01-01T00:00:00", 3])
def test_a_time_that_is_none_is_named(run: Path, field: str, value: object) -> None:
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**content, field: value}))
    assert f"`{field}`" in said(lambda: read_status(str(run)))


def test_a_run_json_of_any_size_is_not_read_into_memory(run: Path) -> None:
    os.truncate(run / "run.json", 600 * 2**20)
    assert "629145600 bytes" in said(lambda: read_status(str(run)))


@pytest.mark.parametrize("content", ['{"time": "2026-01-01T00:0', "[]", "{}", "\0", '{"time": 3}'])
def test_a_progress_json_cut_in_half_is_named(run: Path, content: str) -> None:
    (run / PROGRESS_FILE).write_text(content)
    assert "progress.json: cannot be read" in said(lambda: read_status(str(run)))
    assert evaluate_run(Ledger(str(run))).metrics.counts.scored == 48


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda run: copy(run, "scores/in/stray.parquet"), "scores/in/stray.parquet: no file that raymia wrote"),
        (lambda run: copy(run, "scores/stray-000001.parquet"), "scores/stray-000001.parquet: no file that raymia wrote"),
        (lambda run: copy(run, "scores/in/deep/s-000001.parquet"), "scores/in/deep/s-000001.parquet: no file"),
        (lambda run: copy(run, "quarantine/in/x.parquet"), "quarantine/in/x.parquet: no file that raymia wrote"),
        (lambda run: copy(run, "scores/in/other.shard.parquet"), "scores/in/other.shard.parquet: was added"),
        (lambda run: copy(run, "scores/in/other-000000.parquet"), "scores/in/other-000000.parquet: of a shard that the run"),
        (lambda run: copy(run, "scores/in/s-000007.parquet"), "scores/in/s-000007.parquet: was added"),
        (lambda run: (run / "scores/in/s.shard.parquet").unlink(), "scores/in/s.shard.parquet: is gone"),
        (lambda run: (run / "quarantine/in/s.shard.parquet").unlink(), "quarantine/in/s.shard.parquet: is gone"),
        (lambda run: (run / "shards/in/s.json").unlink(), "scores/in/s.shard.parquet: was added"),
        (lambda run: [path.unlink() for path in run.rglob("in/*") if path.is_file()], "shards/in/s.json: is gone"),
        (lambda run: (run / "shards/in/s.json").write_text("{}"), "shards/in/s.json: `split` is missing"),
        (lambda run: (run / "shards/in/s.json").write_bytes(b"\xff\0"), "shards/in/s.json"),
        (lambda run: (run / "shards/in/t.json").write_bytes((run / "shards/in/s.json").read_bytes()), "shards/in/t.json"),
        (lambda run: (run / "shards/s.json").write_text("{}"), "shards/s.json: no file that raymia wrote"),
        (lambda run: os.truncate(run / "scores/in/s.shard.parquet", 100), "scores/in/s.shard.parquet: 100 bytes"),
    ],
)
def test_a_file_that_was_removed_added_or_cut_is_named_by_status_and_evaluate(run: Path, damage: Damage, named: str) -> None:
    damage(run)
    assert named in said(lambda: read_status(str(run)))
    assert named in said(lambda: evaluate_run(Ledger(str(run))))


def copy(run: Path, name: str) -> None:
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).write_bytes((run / "scores/in/s.shard.parquet").read_bytes())


def test_an_exchanged_file_of_the_same_size_is_named_by_whoever_reads_it(run: Path) -> None:
    path = run / "scores/in/s.shard.parquet"
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)
    assert read_status(str(run)).samples == 50, "status reads no samples"
    for act in (Ledger(str(run)).scores, lambda: evaluate_run(Ledger(str(run)))):
        assert "scores/in/s.shard.parquet: other contents than were written" in said(act)


def test_text_of_a_unit_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "run"))
    ledger.commit_unit("in", "s", 0, rows("in", 0), bad("in"))
    ledger.write_run(scan_record())
    path = tmp_path / "run" / "quarantine/in/s-000000.parquet"
    table = bad("in")
    broken = pa.array([b"corrupt\xf2image"]).view(pa.string())
    pq.write_table(table.set_column(table.column_names.index("reason"), "reason", broken), path)
    for act in (lambda: read_status(str(tmp_path / "run")), ledger.quarantine):
        assert "quarantine/in/s-000000.parquet: not readable as Parquet" in said(act)


def test_the_files_of_two_shards_exchanged_are_named(run: Path) -> None:
    one, other = run / "scores/in/s.shard.parquet", run / "scores/out/s.shard.parquet"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert "scores/in/s.shard.parquet" in said(lambda: evaluate_run(Ledger(str(run))))


def without_digests(run: Path) -> None:
    for path in run.glob("shards/*/*.json"):
        record = json.loads(path.read_text())
        del record["files"]
        path.write_text(json.dumps(record))


def test_a_run_of_an_earlier_version_is_read_and_its_rows_are_counted(run: Path) -> None:
    without_digests(run)
    assert read_status(str(run)).samples == 50
    assert evaluate_run(Ledger(str(run))).metrics.counts.scored == 48
    path = run / "scores/in/s.shard.parquet"
    pq.write_table(pq.read_table(path).slice(0, 20), path)
    assert "scores/in/s.shard.parquet: 20 rows, 24 were written" in said(lambda: evaluate_run(Ledger(str(run))))


def test_columns_that_are_not_there_or_differ_are_named(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    ledger.commit_unit("in", "s", 0, rows("in", 0), QUARANTINE_SCHEMA.empty_table())
    odd = rows("in", 1).drop_columns(["loss"]).append_column("loss", pa.array(["x"] * 12))
    ledger.commit_unit("in", "s", 1, odd, QUARANTINE_SCHEMA.empty_table())
    assert "scores/in/s-000001.parquet: has other columns" in said(ledger.scores)
    assert "have different columns" in said(lambda: ledger.finish_shard("in", "s", ShardEnd(24, 1, None), 2))
    ledger.commit_unit("in", "s", 1, odd.drop_columns(["flags"]), QUARANTINE_SCHEMA.empty_table())
    assert re.search(r"scores/in/s-000001\.parquet: .*flags", said(ledger.peek))
    assert "scores/in/s-000001.parquet: has no column flags" in said(
        lambda: ledger.finish_shard("in", "s", ShardEnd(24, 1, None), 2)
    )


def test_a_committed_unit_that_vanishes_before_its_shard_is_finished_is_named(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    ledger.commit_unit("in", "s", 1, rows("in", 1), QUARANTINE_SCHEMA.empty_table())
    with pytest.raises(DamagedRunError, match=r"scores/in/s-000000\.parquet: was committed and is gone"):
        ledger.finish_shard("in", "s", ShardEnd(24, 1, None), 2)


def test_what_to_do_mends_the_run(run: Path) -> None:
    (run / "scores/in/s.shard.parquet").unlink()
    assert "delete shards/in/s.json and run the scan again" in said(lambda: Ledger(str(run)).state())
    (run / "shards/in/s.json").unlink()
    assert set(Ledger(str(run)).state().finished) == {("out", "s")}


def test_droppings_of_file_systems_and_editors_do_not_matter(run: Path) -> None:
    for name in ("scores/in/.DS_Store", "scores/in/._s.shard.parquet", "shards/in/.s.json.swp", "scores/in/notes.txt"):
        (run / name).write_bytes(b"x")
    assert read_status(str(run)).samples == 50


def test_drafts_of_killed_scans_are_removed_by_the_next_holder_of_the_lock(run: Path) -> None:
    drafts = [
        "scores/in/.s-000003.parquet.4194303",
        f"scores/in/.s.shard.parquet.{HOST}-4194303",
        "shards/in/.s.json.0badcafe-1",
        "quarantine/out/.s-000000.parquet.0badcafe-77",
    ]
    for name in drafts:
        (run / name).write_bytes(b"half")
    Ledger(str(run)).state()
    assert [name for name in drafts if (run / name).exists()] == []


def test_drafts_of_this_machines_dead_processes_go_when_something_is_written_beside_them(tmp_path: Path) -> None:
    alive, dead, elsewhere = (
        f".metrics.json.{name}" for name in (f"{HOST}-{os.getppid()}", f"{HOST}-4194303", "0badcafe-4194303")
    )
    for name in (alive, dead, elsewhere, ".keep.me"):
        (tmp_path / name).write_bytes(b"half")
    Ledger(str(tmp_path)).write_text("metrics.json", "{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([alive, elsewhere, ".keep.me", "metrics.json"])


def test_faults_of_connections_are_tried_again_and_those_of_shards_are_not() -> None:
    assert {"missing_shard", "unreadable_shard", "forbidden_shard", "rate_limited_shard", "timeout_shard"} <= set(RETRIED)
    assert not {"truncated_shard", "corrupt_shard", "not_a_tar", "empty_shard"} & set(RETRIED)


def test_details_of_faults_lose_the_secrets_of_urls(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    row = {"split": "in", "shard": "s", "unit": 0, "key": "k", "stage": "score", "reason": "scoring_failed"}
    row["detail"] = "ValueError: https://user:hunter2@host/m?sig=hunter2"
    ledger.commit_unit("in", "s", 0, rows("in", 0), pa.Table.from_pylist([row], schema=QUARANTINE_SCHEMA))
    ledger.finish_shard("in", "s", ShardEnd(13, 1, Fault("forbidden_shard", "https://h/x?sig=hunter2 refused")), 1)
    details = [found["detail"] for found in ledger.quarantine().to_pylist()]
    assert details == ["ValueError: https://host/m", "https://h/x refused (1 bytes reached)"]
    assert all(b"hunter2" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
