"""Secrets planted in every address that a scan is given: none may stand in the run directory, in an error or in a log."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import yaml

from raymia.data.manifest import load_manifest, resolve_shards
from raymia.data.selection import ShardReader, shard_readers
from raymia.data.tables import read_table
from raymia.data.tar import ShardEnd
from raymia.errors import RaymiaError
from raymia.run.columns import QUARANTINE_SCHEMA
from raymia.run.ledger import Ledger
from raymia.run.record import JobRecord, ReplicaRecord
from raymia.run.status import read_status
from raymia.urls import without_secrets
from tests.conftest import good_members, tar_bytes
from tests.data.servers import Behaviour, serving
from tests.run.records import scan_record

SECRET = "hunter2"  # noqa: S105 - planted, to be looked for


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raymia.data.patience.FIRST_WAIT_S", 0.001)
    monkeypatch.setattr("raymia.data.patience.LONGEST_WAIT_S", 0.002)


def planted(address: str) -> list[str]:
    """An address with a secret in each place that has one."""
    host = address.removeprefix("http://")
    return [
        f"http://user:{SECRET}@{host}",
        f"http://{SECRET}@{host}",
        f"{address}?sig={SECRET}",
        f"{address}?part=1&X-Amz-Signature={SECRET}#{SECRET}",
    ]


def test_no_secret_of_any_address_reaches_the_run_directory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "raymia")
    files = {"/ok.tar": Behaviour(tar_bytes(good_members(2))), "/refused.tar": Behaviour(always=403)}
    with serving(files) as at:
        addresses = [url for path in ("/ok.tar", "/refused.tar", "/gone.tar") for url in planted(at(path))]
        addresses += [f"s3://key:{SECRET}@bucket/x.tar", f"nonsense://user:{SECRET}/x@host/x.tar"]
        digests = {addresses[0]: "0" * 64, addresses[2]: "1" * 64}
        split = {"name": "in", "member": True, "shards": addresses, "sha256": digests}
        content = {"name": "set", "splits": [split], "provenance": f"from {addresses[0]}, with thanks"}
        files["/m.yaml"] = Behaviour(yaml.safe_dump(content).encode())
        manifest, folder = load_manifest(f"{at('/m.yaml')}?sig={SECRET}")
        readers = shard_readers(manifest, folder)
        run = f"file://{tmp_path}/run"
        ledger = Ledger(run)
        for reader in readers:
            if not reader.shard.url.startswith("s3"):
                finish(ledger, reader)
    identity = without_secrets(
        {
            "manifest": manifest.model_dump(mode="json"),
            "shards": [reader.shard.model_dump() for reader in readers],
            "job": JobRecord(replica=ReplicaRecord(model=f"https://user:{SECRET}/a@host/model?sig={SECRET}")).model_dump(),
        }
    )
    ledger.write_run(scan_record(**identity))
    text = read_status(run).model_dump_json() + caplog.text
    for path in (tmp_path / "run").rglob("*"):
        text += str(path) + (path.read_bytes().decode("latin-1") if path.is_file() else "")
    text += str(ledger.quarantine().to_pylist()) + str(ledger.scores().to_pylist())
    assert SECRET not in text
    assert len(ledger.finished()) == len(addresses) - 1, "each address is a shard of its own"
    reasons = [row["reason"] for row in ledger.quarantine().to_pylist()]
    assert len(reasons) == len(addresses) - 1 - len(planted(""))


def finish(ledger: Ledger, reader: ShardReader) -> None:
    *samples, end = reader.read()
    assert isinstance(end, ShardEnd)
    rows = {"key": [sample.key for sample in samples], "flags": [""] * len(samples), "loss": [0.0] * len(samples)}
    if samples:
        ledger.commit_unit(*reader.place, 0, pa.table(rows), QUARANTINE_SCHEMA.empty_table())
    ledger.finish_shard(*reader.place, end, int(bool(samples)))


@pytest.mark.parametrize(
    "where", ["https://user:{s}@127.0.0.1:1/x", "nonsense://u:{s}@h/x", "zip://a::http://u:{s}@127.0.0.1:1/x"]
)
def test_no_error_shows_a_secret_of_what_it_could_not_read(where: str, tmp_path: Path) -> None:
    url = where.format(s=SECRET)
    manifest = {"name": "set", "splits": [{"name": "in", "member": True, "shards": [f"{url}/*.tar{{a"]}]}
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(manifest))
    pd.DataFrame({"key": ["a"]}).to_csv(tmp_path / "t.csv")
    for act in (
        lambda: load_manifest(url),
        lambda: resolve_shards(*load_manifest(str(tmp_path / "m.yaml"))),
        lambda: read_table(f"{url}.csv", ["key"], "table"),
        lambda: Ledger(url).require_writable(),
        lambda: read_status(url),
    ):
        with pytest.raises(RaymiaError) as caught:
            act()
        shown = str(caught.value)
        assert SECRET not in shown
        assert "\n" not in shown
