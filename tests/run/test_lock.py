"""One writer at a time: a lock of the machine on a local disk, elsewhere a lease whose loss is noticed before a write."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from raymia.data.tar import ShardEnd
from raymia.errors import ConfigError
from raymia.run import lock as locks
from raymia.run.columns import QUARANTINE_SCHEMA
from raymia.run.ledger import Ledger
from raymia.run.lock import LOCK_FILE, LostLeaseError, RunLock
from raymia.run.storage import Storage, StorageError
from tests.run.records import scan_record

STOPPED_S = 1000.0
"""A holder that renews its lease so rarely does not, as if it was stopped."""


@pytest.fixture
def memory() -> Iterator[Storage]:
    """A run directory that is on no local disk."""
    files = fsspec.filesystem("memory")
    yield Storage("memory://leases/run")
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def files_of(storage: Storage) -> dict[str, bytes]:
    return {name: storage.read(name) or b"" for name in storage.names("", "") if name != LOCK_FILE}


def unit(number: int) -> tuple[pa.Table, pa.Table]:
    return pa.table({"key": [f"{number}"], "flags": [""], "loss": [1.0]}), QUARANTINE_SCHEMA.empty_table()


def test_a_holder_that_was_stopped_and_overtaken_writes_nothing_any_more(memory: Storage) -> None:
    ledger = Ledger("memory://leases/run")
    with RunLock(ledger.storage, beat_s=STOPPED_S, patience_s=STOPPED_S):
        ledger.commit_unit("in", "s", 0, *unit(0))
        with RunLock(memory, beat_s=0.1, patience_s=0.3):
            before = files_of(memory)
            with pytest.raises(LostLeaseError, match="has taken it over"):
                ledger.commit_unit("in", "s", 1, *unit(1))
            for act in (
                lambda: ledger.finish_shard("in", "s", ShardEnd(1, 1, None), 1),
                lambda: ledger.write_run(scan_record()),
                lambda: ledger.forget_shard("in", "s"),
                lambda: ledger.write_text("progress.json", "{}"),
                lambda: ledger.storage.remove(["scores/in/s-000000.parquet"]),
            ):
                with pytest.raises(LostLeaseError):
                    act()
            assert files_of(memory) == before
            Ledger("memory://leases/run").commit_unit("in", "s", 1, *unit(1))
        assert len(ledger.scores()) == 2


def test_a_holder_that_comes_back_does_not_take_the_lease_from_who_overtook_it(memory: Storage) -> None:
    first = RunLock(Storage("memory://leases/run"), beat_s=0.15, patience_s=STOPPED_S)
    with first:
        memory.write(LOCK_FILE, json.dumps({"token": "other", "owner": "another process", "beat": 0}).encode())
        deadline = time.monotonic() + 5
        while first._lost is None and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(LostLeaseError, match="another process has taken it over"):
            first.check()
    assert b"another process" in (memory.read(LOCK_FILE) or b""), "nor removes it"


def test_what_stands_in_the_lock_is_looked_at_before_each_commit_and_now_and_then_otherwise(
    memory: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger("memory://leases/run")
    lock = RunLock(ledger.storage, beat_s=STOPPED_S, patience_s=STOPPED_S)
    with lock:
        looks: list[int] = []
        holder = lock._holder
        monkeypatch.setattr(lock, "_holder", lambda: looks.append(1) or holder())
        for number in range(20):
            ledger.write_text("progress.json", f"{number}")
        assert looks == []
        ledger.commit_unit("in", "s", 0, *unit(0))
        assert len(looks) == 1
        monkeypatch.setattr(locks, "CHECK_S", -1.0)
        ledger.write_text("progress.json", "{}")
        assert len(looks) == 2


def test_a_renewing_thread_that_ends_by_an_error_is_heard_where_something_is_written(memory: Storage) -> None:
    ledger = Ledger("memory://leases/run")
    lock = RunLock(ledger.storage, beat_s=0.01, patience_s=5.0)
    with lock:

        def broken() -> None:
            raise KeyError("surprise")

        lock._renew = broken  # type: ignore[method-assign]
        deadline = time.monotonic() + 5
        while lock._lost is None and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(LostLeaseError, match="thread that renews its lease ended: KeyError: 'surprise'"):
            ledger.commit_unit("in", "s", 0, *unit(0))


def test_storage_that_fails_for_longer_than_a_lease_lasts_ends_the_scan(memory: Storage) -> None:
    ledger = Ledger("memory://leases/run")
    lock = RunLock(ledger.storage, beat_s=0.02, patience_s=0.1)
    with lock:

        def broken() -> None:
            raise StorageError("the network is down")

        lock._renew = broken  # type: ignore[method-assign]
        time.sleep(0.25)
        with pytest.raises(LostLeaseError, match=r"could not be renewed for .* network is down"):
            ledger.commit_unit("in", "s", 0, *unit(0))


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{", b"null"])
def test_a_lock_that_holds_anything_else_is_taken_once_nobody_renews_it(memory: Storage, content: bytes) -> None:
    memory.write(LOCK_FILE, content)
    with RunLock(memory, beat_s=0.05, patience_s=0.1):
        assert json.loads(memory.read(LOCK_FILE) or b"")["beat"] >= 1


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_local_file_system_without_locks_gets_a_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def without(self: object, *_: object, **__: object) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr(locks.FileLock, "acquire", without)
    with RunLock(Storage(str(tmp_path)), beat_s=0.05, patience_s=0.2):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["beat"] >= 1
        with pytest.raises(ConfigError, match="is writing it"), RunLock(Storage(str(tmp_path)), beat_s=0.05, patience_s=0.5):
            pass
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_local_lock_that_cannot_be_had_is_no_lease(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).mkdir()
    with pytest.raises(ConfigError, match=r"scan\.lock cannot be locked"), RunLock(Storage(str(tmp_path))):
        pass


@pytest.mark.parametrize("exchanged", [False, True])
def test_a_local_lock_file_that_was_removed_by_hand_locks_nothing_and_ends_the_scan(tmp_path: Path, exchanged: bool) -> None:
    ledger = Ledger(str(tmp_path))
    with RunLock(ledger.storage):
        ledger.commit_unit("in", "s", 0, *unit(0))
        (tmp_path / LOCK_FILE).unlink()
        if exchanged:
            (tmp_path / "other").write_text("another scan's")
            (tmp_path / "other").rename(tmp_path / LOCK_FILE)
        with pytest.raises(LostLeaseError, match="exchanged" if exchanged else "gone"):
            ledger.commit_unit("in", "s", 1, *unit(1))
    assert not list(tmp_path.rglob("*-000001*"))


HOLDER = """
import sys, time
import pyarrow as pa
from raymia.run.columns import QUARANTINE_SCHEMA
from raymia.run.ledger import Ledger
from raymia.run.lock import LostLeaseError, RunLock
ledger = Ledger(sys.argv[1])
with RunLock(ledger.storage, beat_s=0.2, patience_s=1.0):
    for number in range(10_000):
        table = pa.table({"key": [str(number)], "flags": [""], "loss": [1.0]})
        try:
            ledger.commit_unit("in", "s", number, table, QUARANTINE_SCHEMA.empty_table())
        except LostLeaseError as error:
            sys.exit(f"lost: {error}")
        print(number, flush=True)
        time.sleep(0.01)
"""


def test_a_process_that_is_stopped_overtaken_and_continued_ends_without_another_file(s3: str) -> None:
    run = f"{s3}/stopped"
    command = [sys.executable, "-c", HOLDER, run]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}) as holder:
        assert holder.stdout is not None
        assert holder.stderr is not None
        while int(holder.stdout.readline()) < 3:
            pass
        os.kill(holder.pid, signal.SIGSTOP)
        try:
            with RunLock(Storage(run), beat_s=0.2, patience_s=1.0):
                # What was being written when the process stopped may be there or not; from here on nothing is added.
                before = set(Storage(run).names("scores", ".parquet"))
                os.kill(holder.pid, signal.SIGCONT)
                _, said = holder.communicate(timeout=20)
                after = set(Storage(run).names("scores", ".parquet"))
        finally:
            holder.kill()
    assert holder.returncode == 1
    assert "lost: run s3://bucket/stopped: this scan no longer holds the run" in said
    assert len(after - before) <= 1, "at most the file that was on its way"
