"""Reading a run takes neither torch nor Ray nor diffusers: no module of the reading wing loads them, nor does a command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa

from raymia.data.manifest import Shard
from raymia.run.columns import QUARANTINE_SCHEMA
from raymia.run.ledger import Ledger
from raymia.run.record import SignalRecord, now_text
from tests.run.records import scan_record

HEAVY = ("torch", "ray", "diffusers", "transformers")
WITHOUT = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ImportError(f"{{name}} is not installed here")
sys.meta_path.insert(0, Missing())
"""
EVERY_MODULE = """
import importlib, pkgutil
import raymia
for room in ("data", "run", "evaluation", "report", "cli"):
    package = importlib.import_module(f"raymia.{room}")
    for module in pkgutil.walk_packages(package.__path__, f"raymia.{room}."):
        importlib.import_module(module.name)
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT + code, *arguments], capture_output=True, text=True, check=False)


def test_every_module_of_the_reading_wing_can_be_imported_where_torch_ray_and_diffusers_are_missing() -> None:
    done = python(EVERY_MODULE)
    assert done.returncode == 0, done.stderr


def make_run(folder: Path) -> str:
    signals = [SignalRecord(name="loss", attack="loss", access="grey", primary=True)]
    ledger = Ledger(str(folder))
    shards = [Shard(split=split, name="0", url=str(folder / "gone.tar"), member=None) for split in ("in", "out")]
    ledger.write_run(scan_record(signals=signals, shards=shards, finished=now_text()))
    for split, member in (("in", True), ("out", False)):
        rows = pd.DataFrame({"key": [f"{i}" for i in range(12)], "index": range(12), "split": split, "shard": "0", "unit": 0})
        rows = rows.assign(member=member, caption="a", flags="", loss=[float((i * 7) % 12) + member for i in range(12)])
        ledger.commit_unit(split, "0", 0, pa.Table.from_pandas(rows, preserve_index=False), QUARANTINE_SCHEMA.empty_table())
    return str(folder)


def test_status_evaluate_audit_and_lookup_run_where_torch_ray_and_diffusers_are_missing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (tmp_path / "list.csv").write_text("url,sha256\nhttps://example.org/1,\n")
    commands = [["status", run, "--json"], ["evaluate", run, "--json"]]
    # What no model is needed for asks for none, though it lies in a room that makes things.
    commands.append(["data", "claims", str(tmp_path / "list.csv"), "--json"])
    commands.append(["data", "lookup", str(tmp_path / "list.csv"), "--in", str(tmp_path / "list.csv"), "--json"])
    code = f"""
import json, sys
from raymia.cli import app
from typer.testing import CliRunner
shown = []
for command in {commands!r}:
    done = CliRunner().invoke(app, command)
    if done.exception is not None:
        raise done.exception
    shown.append(json.loads(done.stdout))
import raymia
table = raymia.evaluate({run!r}).table
raymia.evaluate(table.drop(columns=["probability"]))
print(json.dumps(shown))
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    status, metrics, claimed, looked = json.loads(done.stdout)
    assert claimed["works"] == 1
    assert (looked["works"], looked["found"]) == (1, 1)
    assert (status["state"], status["samples"]) == ("finished", 24)
    assert 0.5 < metrics["signals"]["loss"]["auc"]["value"] < 1.0
    assert (tmp_path / "run" / "report" / "index.html").is_file()
