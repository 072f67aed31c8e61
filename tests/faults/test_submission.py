"""Scans as jobs: handed in, followed through a lost connection, ended with their own exit code, stopped, numbered."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from ray.cluster_utils import Cluster
from typer.testing import CliRunner

from raymia.cli import app
from raymia.engine.submission import Cluster as JobServer
from raymia.run.status import read_status
from tests.faults.conftest import DEADLINE_S, SHARDS, UNIT, Scan, attacks

MakeScan = Callable[[str], Scan]


@pytest.fixture
def dashboard(cluster: Cluster) -> str:
    return f"http://{cluster.head_node.webui_url}"


@pytest.fixture
def submit(dashboard: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`raymia submit` in a working directory that holds the job; the job's name is the test's own."""

    def call(scan: Scan, *options: str, name: str = "job", **changes: Any) -> Result:
        scan.write_job(**changes).rename(scan.folder / f"{name}.yaml")
        monkeypatch.chdir(scan.folder)
        return CliRunner().invoke(app, ["submit", f"{name}.yaml", "--address", dashboard, *options])

    return call


def scraped(cluster: Cluster, run: Path) -> set[str]:
    """Names of the metrics of a run that the cluster's head gives out, as soon as there are some."""
    address = f"http://127.0.0.1:{cluster.head_node.metrics_export_port}/metrics"
    deadline, text = time.monotonic() + 60, ""
    while str(run) not in text and time.monotonic() < deadline:
        time.sleep(0.2)
        with urllib.request.urlopen(address, timeout=10) as answer:
            text = answer.read().decode()
    return {line.partition("{")[0] for line in text.splitlines() if line.startswith("ray_raymia_") and str(run) in line}


def test_a_running_job_is_scraped_and_its_status_read_from_elsewhere_it_is_followed_and_rays_own_command_resumes_it(
    make_scan: MakeScan, submit: Any, dashboard: str, cluster: Cluster
) -> None:
    scan = make_scan("scan")
    (scan.folder / "environment.yaml").write_text("env_vars: {RAYMIA_LOG: json}")
    how = {"name": "whole", "attacks": attacks(sleep_s=0.5)}
    begun = submit(scan, "--runtime-env", "environment.yaml", **how)
    assert begun.exit_code == 0, begun.output
    assert re.search(r"^whole-[0-9a-f]{8}-1 submitted, attempt 1$", begun.stderr, re.MULTILINE)
    deadline = time.monotonic() + DEADLINE_S
    while scan.units() < 2:
        assert time.monotonic() < deadline, "no progress"
        time.sleep(0.05)
    status = read_status(str(scan.run))
    assert (status.state, status.attempts) == ("running", 1)
    assert status.units >= 2
    assert {f"ray_raymia_{name}_total" for name in ("images", "evaluations", "stage_seconds")} <= scraped(cluster, scan.run)

    done = submit(scan, "--runtime-env", "environment.yaml", "--follow", **how)
    assert done.exit_code == 0, done.output
    assert done.stdout.count("read 112 = scored 112 + quarantined 0") == 1
    logged = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"time"')]
    units = [line for line in logged if line["message"] == "unit committed"]
    assert len(units) == sum(SHARDS.values()) // UNIT
    assert {line["shard"] for line in units} == set(SHARDS)

    command = [str(Path(sys.executable).parent / "ray"), "job", "submit", "--address", dashboard]
    command += ["--working-dir", str(scan.folder), "--", "raymia", "scan", "whole.yaml"]
    again = subprocess.run(command, cwd=scan.folder, capture_output=True, text=True, check=False, timeout=200)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "read 112 = scored 112 + quarantined 0" in again.stdout
    assert json.loads((scan.run / "run.json").read_text())["attempts"] == 2


def test_the_exit_code_is_the_jobs_own(make_scan: MakeScan, submit: Any) -> None:
    done = submit(make_scan("scan"), "--follow", manifest="/nowhere.yaml")
    assert done.exit_code == 2
    assert "no such file" in done.stdout


def test_a_running_job_is_not_handed_in_twice_and_after_it_is_stopped_comes_the_next_attempt(
    make_scan: MakeScan, submit: Any, dashboard: str
) -> None:
    scan = make_scan("scan")
    slow = attacks(sleep_s=3.0)
    done = submit(scan, name="slow", attacks=slow)
    assert done.exit_code == 0, done.output
    assert "Follow it: raymia submit slow.yaml" in done.stderr
    name = next(line.split()[0] for line in done.stderr.splitlines() if "submitted, attempt 1" in line)
    again = submit(scan, name="slow", attacks=slow)
    assert f"{name} is running already" in again.stderr
    server, seen = JobServer(dashboard), []
    server.cancel(name)
    assert server.follow(name, seen.append) != 0
    following = submit(scan, name="slow", attacks=slow)
    assert f"{name.removesuffix('1')}2 submitted, attempt 2" in following.stderr
    server.cancel(f"{name.removesuffix('1')}2")


def test_a_lost_connection_shows_no_character_twice(
    make_scan: MakeScan, dashboard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raymia.engine.submission.RECONNECT_S", 0.05)
    server = JobServer(dashboard)
    script = "import time\nfor i in range(8):\n    print('line', i, flush=True)\n    time.sleep(0.3)\nraise SystemExit(7)"
    job_id = server._client.submit_job(entrypoint=f'{sys.executable} -c "{script}"')
    tail, breaks = server._client.tail_job_logs, [3]

    async def broken(job: str) -> Any:
        async for chunk in tail(job):
            yield chunk
            if breaks[0]:
                breaks[0] -= 1
                raise ConnectionError("the network went away")

    monkeypatch.setattr(server._client, "tail_job_logs", broken)
    seen: list[str] = []
    assert server.follow(job_id, seen.append) == 7
    assert [line for line in "".join(seen).splitlines() if line.startswith("line")] == [f"line {i}" for i in range(8)]
    assert breaks == [0]


def test_the_doctor_looks_at_every_node_of_a_remote_cluster(
    dashboard: str, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["doctor", "--address", dashboard, "--json"])
    assert done.exit_code == 0, done.output
    checks = json.loads(done.stdout)
    assert len([check for check in checks if check["name"] == "Ray"]) == len(cluster.list_all_nodes())
    assert {check["state"] for check in checks if check["name"].startswith("equal")} == {"ok"}
    (auth,) = [check for check in checks if check["name"] == "authentication"]
    assert auth["state"] == "warning"
    assert "RAY_AUTH_MODE=token" in auth["mend"]
