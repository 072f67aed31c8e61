"""What a run directory shows at every moment of a commit, whatever interrupts it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from raymia.data.tar import Fault, ShardEnd
from raymia.errors import ConfigError, RaymiaError
from raymia.run.columns import QUARANTINE_SCHEMA
from raymia.run.ledger import Ledger
from raymia.run.record import PROGRESS_FILE, Bottleneck
from raymia.run.status import read_status
from raymia.run.storage import StorageError
from raymia.scan.monitoring import Monitor, bottleneck
from tests.run.records import scan_record


def scores(unit: int, keys: str) -> pa.Table:
    flags = ["no_caption" if key == "a" else "" for key in keys]
    return pa.table({"key": list(keys), "unit": [unit] * len(keys), "flags": flags, "loss": [float(unit)] * len(keys)})


def quarantine(unit: int, keys: str) -> pa.Table:
    rows = [
        {"split": "in", "shard": "s", "unit": unit, "key": key, "stage": "decode", "reason": "corrupt_image"} for key in keys
    ]
    return pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    found = Ledger(str(tmp_path))
    found.commit_unit("in", "s", 0, scores(0, "ab"), quarantine(0, ""))
    found.commit_unit("in", "s", 1, scores(1, "c"), quarantine(1, "de"))
    return found


def test_units_of_a_finished_shard_stand_together_and_count_the_same(ledger: Ledger, tmp_path: Path) -> None:
    before, table, bad = ledger.peek(), ledger.scores(), ledger.quarantine()
    assert before.committed == {("in", "s"): frozenset({0, 1})}
    ledger.finish_shard("in", "s", ShardEnd(5, 100, None), 2)
    after = ledger.peek()
    assert after.tally == before.tally
    assert (after.tally.units, after.tally.samples, after.committed) == (2, 5, {})
    assert ledger.scores().equals(table)
    assert ledger.quarantine().equals(bad)
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert names == ["quarantine/in/s.shard.parquet", "scores/in/s.shard.parquet", "shards/in/s.json"]
    assert ledger.counts(5).model_dump() == {
        "read": 5,
        "scored": 3,
        "quarantined": 2,
        "by_reason": {"corrupt_image": 2},
        "flagged": {"no_caption": 1},
        "expected": 5,
    }


@pytest.mark.parametrize("writes", range(4))
def test_a_shard_that_is_interrupted_while_it_is_finished_shows_nothing_twice(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    table = ledger.scores()
    left = [writes]
    write, remove = ledger.storage.write, ledger.storage.remove

    def limited(name: str, content: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise StorageError("power cut")
        write(name, content)

    monkeypatch.setattr(ledger.storage, "write", limited)
    monkeypatch.setattr(ledger.storage, "remove", lambda names: None)
    try:
        ledger.finish_shard("in", "s", ShardEnd(5, 100, None), 2)
    except StorageError:
        assert writes < 3
    else:
        assert writes == 3
    monkeypatch.setattr(ledger.storage, "write", write)
    monkeypatch.setattr(ledger.storage, "remove", remove)
    assert ledger.scores().equals(table)
    state = ledger.state()
    assert (state.tally.samples, state.tally.scored, state.tally.quarantined) == (5, 3, 2)
    if not state.finished:
        ledger.finish_shard("in", "s", ShardEnd(5, 100, None), 2)
    assert ledger.scores().equals(table)
    assert len(ledger.storage.names("scores", ".parquet")) == 1


@pytest.mark.parametrize("before", [True, False])
def test_a_reader_beside_a_running_scan_sees_one_moment(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, before: bool) -> None:
    table, sizes = ledger.scores(), ledger.storage.sizes
    finished: list[bool] = []

    def listed(folder: str, ending: str) -> dict[str, int | None]:
        found = {} if before else sizes(folder, ending)
        if folder == "scores" and not finished:
            finished.append(True)
            Ledger(ledger.run).finish_shard("in", "s", ShardEnd(5, 100, None), 2)
        return found or sizes(folder, ending)

    monkeypatch.setattr(ledger.storage, "sizes", listed)
    assert ledger.scores().equals(table)
    assert finished
    assert ledger.peek().tally.samples == 5


def test_a_shard_not_read_to_its_end_counts_as_one_more_and_may_be_taken_back(ledger: Ledger) -> None:
    ledger.finish_shard("in", "s", ShardEnd(5, 100, Fault("unreadable_shard", "gone")), 2)
    counts = ledger.counts(8)
    assert (counts.read, counts.scored, counts.by_reason) == (6, 3, {"corrupt_image": 2, "unreadable_shard": 1})
    assert ledger.peek().tally.samples == 5
    ledger.forget_shard("in", "s")
    assert ledger.peek().tally.units == 0
    with pytest.raises(RaymiaError, match="no committed unit"):
        ledger.scores()


def test_damaged_files_are_named_with_what_to_do(ledger: Ledger) -> None:
    ledger.write_text("shards/in/s.json", "{}")
    with pytest.raises(
        RaymiaError, match=r"shards/in/s.json: `split` is missing .* delete it, and the scan does this shard again"
    ):
        ledger.peek()
    ledger.storage.remove(["shards/in/s.json"])
    ledger.write_bytes("scores/in/s-000001.parquet", b"PAR1 torn")
    with pytest.raises(RaymiaError, match=r"scores/in/s-000001.parquet: not readable as Parquet"):
        ledger.scores()


def test_shards_whose_names_look_like_units_do_not_collide(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    for shard in ("s", "s-000001"):
        ledger.commit_unit("in", shard, 0, scores(0, "ab"), quarantine(0, ""))
    ledger.commit_unit("in", "s", 1, scores(1, "c"), quarantine(1, ""))
    ledger.finish_shard("in", "s-000001", ShardEnd(2, 10, None), 1)
    assert ledger.peek().committed == {("in", "s"): frozenset({0, 1})}
    assert len(ledger.scores()) == 5


class NoCounter:
    def __init__(self, *_: object) -> None:
        self.total: dict[tuple[str, ...], float] = {}

    def inc(self, value: float, tags: dict[str, str]) -> None:
        key = tuple(tags.values())
        self.total[key] = self.total.get(key, 0.0) + value


def test_a_monitor_counts_by_reason_kind_and_stage(ledger: Ledger) -> None:
    counters: dict[str, NoCounter] = {}

    def make(name: str, description: str, tags: tuple[str, ...]) -> NoCounter:
        assert description
        assert tags[0] == "run"
        return counters.setdefault(name, NoCounter())

    monitor = Monitor(ledger, ledger.peek().tally, 10, make)
    monitor.batch(3, {"corrupt_image": 1}, {"forwards": 12, "encodes": 0}, {"read": 0.5, "model": 2.0})
    monitor.unit()
    progress = monitor.progress()
    assert (progress.samples, progress.units, progress.by_reason) == (9, 3, {"corrupt_image": 3})
    assert progress.stages["model"] == 2.0
    run = ledger.run
    assert counters["raymia_images_total"].total == {(run,): 4}
    assert counters["raymia_quarantined_total"].total == {(run, "corrupt_image"): 1}
    assert counters["raymia_evaluations_total"].total == {(run, "forwards"): 12}
    assert counters["raymia_stage_seconds_total"].total == {(run, "read"): 0.5, (run, "model"): 2.0}


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ({"read": 1, "decode": 5, "transfer": 0, "model": 19, "commit": 1}, "model"),
        ({"read": 1, "decode": 5, "transfer": 0, "model": 8, "commit": 1}, "decode"),
        ({"read": 9, "decode": 5, "transfer": 0, "model": 8, "commit": 1}, "read"),
        ({"read": 1, "decode": 5, "transfer": 0, "model": 8, "commit": 9}, "commit"),
    ],
)
def test_the_bottleneck_is_the_stage_that_was_busy(stages: dict[str, float], expected: str) -> None:
    found = bottleneck(stages, seconds=10.0, replicas=2)
    assert found.stage == expected
    assert "replicas busy" in found.why


def test_status_of_a_run_that_runs_stopped_or_finished(ledger: Ledger) -> None:
    with pytest.raises(ConfigError, match=r"no run\.json"):
        read_status(ledger.run)
    now = datetime.now(UTC).isoformat()
    run = scan_record(started=now, attempted=now, attempts=2, expected=20)
    ledger.write_run(run)
    assert read_status(ledger.run).state == "running"
    monitor = Monitor(ledger, ledger.peek().tally, 20, NoCounter)
    progress = monitor.progress().model_copy(update={"images_per_s": 5.0})
    ledger.write_text(PROGRESS_FILE, progress.model_dump_json())
    status = read_status(ledger.run)
    assert (status.state, status.samples, status.units, status.eta_s) == ("running", 5, 2, 3.0)
    old = (datetime.now(UTC) - timedelta(minutes=10)).isoformat()
    ledger.write_text(PROGRESS_FILE, progress.model_copy(update={"time": old}).model_dump_json())
    assert read_status(ledger.run).state == "running"  # a new attempt that loads its models
    ledger.write_run(run.model_copy(update={"attempted": old}))
    assert read_status(ledger.run).state == "stopped"
    bottle = Bottleneck(stage="model", why="")
    ledger.write_run(run.model_copy(update={"finished": now, "bottleneck": bottle}))
    assert read_status(ledger.run).bottleneck == "model"
