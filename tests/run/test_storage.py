"""Storage that fails, and a real S3 server on loopback."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import boto3
import fsspec
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from raymia.cli import app
from raymia.data.index import summarise_shard
from raymia.data.manifest import load_manifest
from raymia.data.selection import shard_readers
from raymia.errors import ConfigError
from raymia.evaluation.metrics import evaluate_run
from raymia.report.page import write_report
from raymia.run.ledger import Ledger
from raymia.run.lock import LOCK_FILE, RunLock
from raymia.run.status import read_status
from raymia.run.storage import Storage, StorageError
from raymia.scan.pipeline import run_scan
from raymia.urls import public, without_secrets
from tests.conftest import good_members, tar_bytes
from tests.run.conftest import SECRET
from tests.scan.test_pipeline import make_job


def test_files_on_an_object_store_are_written_listed_read_and_removed(s3: str) -> None:
    storage = Storage(f"{s3}/files")
    assert storage.read("a.json") is None
    assert storage.names("scores", ".parquet") == []
    for name in ("scores/x/1.parquet", "scores/x/2.parquet", "scores/y.json"):
        storage.write(name, name.encode())
    storage.write("scores/x/1.parquet", b"again")
    assert storage.names("scores", ".parquet") == ["scores/x/1.parquet", "scores/x/2.parquet"]
    assert storage.read_many(["scores/x/2.parquet", "scores/x/1.parquet"]) == [b"scores/x/2.parquet", b"again"]
    storage.remove(["scores/x/1.parquet", "scores/gone"])
    assert storage.names("scores", ".parquet") == ["scores/x/2.parquet"]


@pytest.mark.usefixtures("local_ray")
def test_a_scan_of_shards_and_run_on_s3_with_report_and_no_secret_anywhere(s3: str, tmp_path: Path, tiny: Path) -> None:
    client = boto3.client("s3")
    for name, start in (("m0", 0), ("n0", 100)):
        client.put_object(Bucket="bucket", Key=f"shards/{name}.tar", Body=tar_bytes(good_members(12, start=start)))
    manifest = {
        "name": "set",
        "splits": [
            {"name": "members", "member": True, "shards": [f"{s3}/shards/m*.tar"]},
            {"name": "non_members", "member": False, "shards": [f"{s3}/shards/n*.tar"]},
        ],
    }
    job = make_job(tmp_path, tiny, "unused", attacks={"loss": {"timesteps": [100], "draws": 1}})
    job = job.model_copy(update={"run": f"{s3}/run"})
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job.model_dump(mode="json")))
    done = CliRunner().invoke(app, ["scan", str(path)])
    assert done.exit_code == 0, done.output
    ledger = Ledger(f"{s3}/run")
    assert len(ledger.scores()) == 24
    assert ledger.storage.names("", LOCK_FILE) == []
    write_report(ledger, evaluate_run(ledger))
    assert "Was it in the training set?" in (ledger.read_text("report/index.html") or "")
    assert read_status(f"{s3}/run").state == "finished"
    for key in client.list_objects_v2(Bucket="bucket", Prefix="run")["Contents"]:
        assert SECRET.encode() not in client.get_object(Bucket="bucket", Key=key["Key"])["Body"].read()
    assert SECRET not in done.output
    again = run_scan(job, Console(quiet=True))
    assert (again.read, again.scored) == (24, 24)
    assert ledger.require_scan().attempts == 2


def test_shards_on_s3_are_indexed(s3: str, tmp_path: Path) -> None:
    boto3.client("s3").put_object(Bucket="bucket", Key="more/a.tar", Body=tar_bytes(good_members(3)))
    path = tmp_path / "m.yaml"
    split = {"name": "all", "member": "unknown", "shards": [f"{s3}/more/*.tar"]}
    path.write_text(yaml.safe_dump({"name": "m", "splits": [split]}))
    (reader,) = shard_readers(*load_manifest(str(path)))
    assert reader.shard.url == "s3://bucket/more/a.tar"
    assert summarise_shard(reader).samples == 3


def test_a_lease_on_an_object_store_is_respected_while_it_is_renewed_and_taken_over_when_its_holder_died(s3: str) -> None:
    storage = Storage(f"{s3}/leased")
    with (
        RunLock(storage, beat_s=0.1, patience_s=5.0),
        pytest.raises(ConfigError, match="is writing it"),
        RunLock(storage, beat_s=0.1, patience_s=5.0),
    ):
        pass
    assert storage.read(LOCK_FILE) is None
    storage.write(LOCK_FILE, json.dumps({"token": "dead", "owner": "a crash", "beat": 3}).encode())
    with RunLock(storage, beat_s=0.2, patience_s=1.0):
        time.sleep(0.5)
        assert json.loads(storage.read(LOCK_FILE) or b"")["beat"] >= 1
    assert storage.read(LOCK_FILE) is None


def test_a_lock_on_a_local_disk_is_exclusive_and_let_go(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with RunLock(storage), pytest.raises(ConfigError, match=rf"process {os.getpid()} on .* is writing it"), RunLock(storage):
        pass
    with RunLock(storage):
        pass


class Failing:
    """Replaces an operation by one that fails so many times first."""

    def __init__(self, act: Callable[..., object], times: int, error: OSError) -> None:
        self.act, self.left, self.error = act, times, error
        self.calls = 0

    def __call__(self, *arguments: object, **named: object) -> object:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error
        return self.act(*arguments, **named)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raymia.data.patience.FIRST_WAIT_S", 0.001)
    monkeypatch.setattr("raymia.data.patience.LONGEST_WAIT_S", 0.002)


@pytest.mark.usefixtures("impatient")
def test_writes_are_tried_again_and_give_up_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(str(tmp_path))
    replace = Failing(os.replace, 3, OSError(errno.EIO, "it failed"))
    monkeypatch.setattr(os, "replace", replace)
    storage.write("a", b"x")
    assert (storage.read("a"), replace.calls) == (b"x", 4)
    replace.left = 100
    with pytest.raises(StorageError, match=r"cannot write b: .*it failed \(tried 6 times\); what is committed is kept"):
        storage.write("b", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.usefixtures("impatient")
def test_a_full_disk_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Failing(os.replace, 100, OSError(errno.ENOSPC, "no space"))
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(StorageError, match="storage is full; free space"):
        Storage(str(tmp_path)).write("a", b"x")
    assert replace.calls == 1
    assert list(tmp_path.iterdir()) == []


def test_credentials_in_urls_are_left_out() -> None:
    assert public("s3://key:secret@bucket/run?token=1") == "s3://bucket/run"
    assert without_secrets({"a": ["https://u:p@host/x?sig=1", 3], "b": "plain ?"}) == {
        "a": ["https://host/x", 3],
        "b": "plain ?",
    }
    ledger = Ledger("memory://user:secret@folder/run")
    assert "secret" not in ledger.run
    assert "secret" not in ledger.control().run


@pytest.mark.usefixtures("bare_loop")
def test_a_run_on_a_file_system_in_memory_is_that_of_a_disk(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "m0.tar").write_bytes(tar_bytes(good_members(10)))
    (tmp_path / "n0.tar").write_bytes(tar_bytes(good_members(10, start=100)))
    run, copy = "memory://here/run", tmp_path / "there"
    job = make_job(tmp_path, tiny, "unused", attacks={"random": {}}).model_copy(update={"run": run})
    assert run_scan(job, Console(quiet=True)).scored == 20
    fsspec.filesystem("memory").get("/here/run", str(copy), recursive=True)
    assert Ledger(run).scores().num_rows == 20
    assert Ledger(run).scores().equals(Ledger(str(copy)).scores())
    resumed = run_scan(job.model_copy(update={"run": str(copy)}), Console(quiet=True))
    assert (resumed.read, resumed.scored) == (20, 20)
    assert threading.active_count() < 50
