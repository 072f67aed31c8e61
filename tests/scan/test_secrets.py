"""A scan of shards whose addresses hold secrets: whatever it writes, prints and logs holds none."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from raymia.config import parse_job
from raymia.evaluation.metrics import evaluate_run
from raymia.report.page import write_report
from raymia.run.ledger import Ledger
from raymia.scan.pipeline import run_scan
from tests.conftest import good_members, tar_bytes
from tests.data.servers import Behaviour, serving

SECRETS = ("pa%2Fss%23word", "t0ken", "0ther")


@pytest.mark.usefixtures("bare_loop")
def test_a_run_directory_and_all_that_is_said_hold_no_secret_of_an_address(
    tmp_path: Path, tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shards = {"/m0.tar": tar_bytes(good_members(8)), "/n0.tar": tar_bytes(good_members(8, start=100))}
    files = {name: Behaviour(content) for name, content in shards.items()}
    files["/gone.tar"] = Behaviour(always=403)
    said = io.StringIO()
    console = Console(file=said, width=200)
    with serving(files) as url, caplog.at_level(logging.DEBUG, "raymia"):

        def address(name: str) -> str:
            return url(name).replace("://", f"://somebody:{SECRETS[0]}@") + f"?sig={SECRETS[1]}&X-Amz-Signature={SECRETS[2]}"

        manifest = {
            "name": "set",
            "splits": [
                {"name": "members", "member": True, "shards": [address("/m0.tar"), address("/gone.tar")]},
                {"name": "non_members", "member": False, "shards": [address("/n0.tar")]},
            ],
        }
        (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(manifest))
        job = {
            "manifest": str(tmp_path / "manifest.yaml"),
            "replica": {"model": str(tiny), "dtype": "float32", "resolution_px": 64},
            "attacks": {"random": {}, "autoencoder": {}},
            "pool": {"replicas": 1, "gpus_per_replica": 0, "batch_size": 8},
            "run": str(tmp_path / "run"),
            "limits": {"attempts": 2, "read_timeout_s": 5.0},
        }
        counts = run_scan(parse_job(job, "job"), console)
    ledger = Ledger(job["run"])
    write_report(ledger, evaluate_run(ledger))
    assert (counts.scored, counts.by_reason) == (16, {"forbidden_shard": 1})
    (row,) = ledger.quarantine().to_pylist()
    assert "127.0.0.1" in row["detail"]
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(written) > 8
    texts = {str(path): path.read_bytes() for path in written} | {"said": said.getvalue().encode(), "log": caplog.text.encode()}
    tables = (table.to_pandas().to_json() for table in (ledger.scores(), ledger.quarantine()))
    texts |= {f"table {number}": text.encode() for number, text in enumerate(tables)}
    for secret in (*SECRETS, "pa/ss#word", "somebody", "sig="):
        assert not [name for name, text in texts.items() if secret.encode() in text or secret in name], secret
