"""The command line as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from raymia.attacks.base import ATTACKS
from raymia.cli import app
from raymia.errors import ConfigError
from tests.conftest import good_members

JOB = {
    "manifest": "testbed",
    "replica": {"model": "testbed", "resolution_px": 64},
    "attacks": {"loss": {}, "clid": {}, "denoising": {"presets": ["reversed_noising"]}},
}


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(JOB))
    return path


def test_a_dry_run_says_what_the_job_costs_and_what_sharing_saves(job: Path) -> None:
    done = CliRunner().invoke(app, ["scan", str(job), "--dry-run", "--json"])
    costs = json.loads(done.stdout)
    assert {name: cost["forwards"] for name, cost in costs["per_image"].items()} == {
        "loss": 25,
        "clid": 36,
        "denoising": 50,
    }
    assert costs["apart"]["forwards"] == 111
    assert costs["together"]["forwards"] == 83
    assert costs["samples"] == 1024
    assert costs["in_total"]["forwards"] == 83 * 1024
    assert {part["part"]: part["dtype"] for part in costs["memory"]["parts"]} == {
        "vae": "float32",
        "unet": "bfloat16",
        "text_encoder": "bfloat16",
    }
    shown = CliRunner().invoke(app, ["scan", str(job), "--dry-run"]).stdout
    assert "84,992" in shown
    assert "25%" in shown
    assert "The smallest GPU that it fits is one of 8 GB" in " ".join(shown.split())
    on_cpu = CliRunner().invoke(app, ["scan", str(job), "--dry-run", "--json", "--set", "pool.gpus_per_replica=0"])
    assert json.loads(on_cpu.stdout)["memory"] is None
    assert not (job.parent / "runs").exists()


def test_a_dry_run_of_a_manifest_without_counts_says_that_they_are_unknown(job: Path, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"")
    manifest = {"name": "mine", "licence": "CC0", "splits": [{"name": "all", "member": "unknown", "shards": ["a.tar"]}]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(manifest))
    arguments = ["scan", str(job), "--dry-run", "--set", f"manifest={tmp_path / 'mine.yaml'}"]
    assert json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)["in_total"]["forwards"] is None
    shown = CliRunner().invoke(app, arguments).stdout
    assert "samples unknown" in shown
    assert "announces no number of samples for all" in shown


def test_json_of_a_scan_is_refused_where_there_is_none(job: Path) -> None:
    done = CliRunner().invoke(app, ["scan", str(job), "--json"])
    assert isinstance(done.exception, ConfigError)


def test_the_list_of_attacks_has_every_attack_with_its_signals_and_cost() -> None:
    listed = {entry["attack"]: entry for entry in json.loads(CliRunner().invoke(app, ["attacks", "--json"]).stdout)}
    assert set(listed) == set(ATTACKS.all())
    assert listed["pokemon"]["cost"]["queries"] == 7
    assert listed["loss"]["signals"][:2] == ["loss", "loss.t=100"]
    shown = CliRunner().invoke(app, ["attacks"]).stdout
    assert "noise_optimisation" in shown
    assert "2411.12858" in shown


def test_a_made_set_is_told_in_a_table_and_as_json(tmp_path: Path, write_tar: Callable[..., Path]) -> None:
    shard = write_tar("a.tar", good_members(8))
    manifest = tmp_path / "all.yaml"
    assert CliRunner().invoke(app, ["data", "index", str(shard), "--out", str(manifest)]).exit_code == 0
    groups = tmp_path / "groups.csv"
    groups.write_text("split,key,series\n" + "".join(f"all,{i:04d},series {i // 2}\n" for i in range(8)))
    command = ["data", "split", str(manifest), "--groups", str(groups), "--column", "series", "--out", str(tmp_path / "out")]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0
    assert "manifest.yaml: members 4, non_members 4" in shown.stdout
    assert "4 groups of series" in shown.stdout
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert (found["members"], found["non_members"], found["manifest"]["selection"]) == (4, 4, "selection.parquet")
