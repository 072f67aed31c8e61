"""The cluster files, held against Ray's own schema and checks, and against what is promised of them."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args, symmetric_run

from raymia.config import parse_job
from raymia.engine.submission import load_runtime_env

ROOT = Path(__file__).parents[2]
UP_FILES = ["aws.yaml", "gcp.yaml"]
KUBERAY_FILES = ["raycluster.yaml", "rayjob.yaml"]


def load(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "cluster" / name).read_text()))


@pytest.mark.parametrize("name", UP_FILES)
def test_ray_accepts_the_cluster_file(name: str) -> None:
    content = load(name)
    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    jsonschema.validate(content, json.loads(schema.read_text()))
    validate_config(prepare_config(copy.deepcopy(content)))


@pytest.mark.parametrize("name", UP_FILES)
def test_the_head_takes_no_work_and_spot_comes_before_on_demand_from_zero(name: str) -> None:
    content = load(name)
    types = content["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["gpu_spot"]["resources"] == types["gpu_on_demand"]["resources"]
    assert types["gpu_spot"]["priority"] > types["gpu_on_demand"]["priority"]
    assert all(types[kind]["min_workers"] == 0 for kind in ("gpu_spot", "gpu_on_demand"))
    assert 0 < content["idle_timeout_minutes"] <= 10


@pytest.mark.parametrize("name", UP_FILES)
def test_nothing_listens_beyond_loopback_without_the_token(name: str) -> None:
    content = load(name)
    head = " ".join(content["head_start_ray_commands"])
    assert "--num-cpus=0" in head
    assert "--dashboard-host=127.0.0.1" in head
    assert "-e RAY_AUTH_MODE=token" in content["docker"]["run_options"]
    assert "/home/ray/.ray/auth_token" in content["file_mounts"]
    assert "ray_auth_token" not in yaml.safe_dump(content).lower()


def cluster_spec(name: str) -> dict[str, Any]:
    spec = load(f"kuberay/{name}")["spec"]
    return dict(spec.get("rayClusterSpec", spec))


@pytest.mark.parametrize("name", KUBERAY_FILES)
def test_kuberay_pods_are_unprivileged_bounded_and_behind_the_token(name: str) -> None:
    spec = cluster_spec(name)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["rayVersion"] == ray.__version__
    assert spec["autoscalerOptions"]["version"] == "v2"
    head, *workers = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    assert head["rayStartParams"]["num-cpus"] == "0"
    for group in (head, *workers):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert int(group["rayStartParams"]["object-store-memory"]) > 0
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
    spot, on_demand = workers
    assert spot["priority"] > on_demand["priority"]
    assert spot["minReplicas"] == on_demand["minReplicas"] == 0


def test_the_kubernetes_job_resumes_and_cleans_up() -> None:
    spec = load("kuberay/rayjob.yaml")["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["activeDeadlineSeconds"] > 0
    assert isinstance(yaml.safe_load(spec["runtimeEnvYAML"]), dict)


def test_the_managed_job_of_skypilot_takes_spot_nodes_and_is_opened_by_a_token_that_no_file_holds() -> None:
    content = load("sky.yaml")
    assert content["resources"]["use_spot"] is True
    assert content["envs"]["RAY_AUTH_MODE"] == "token"
    assert content["secrets"] == {"RAY_AUTH_TOKEN": None}
    assert (ROOT / content["envs"]["JOB"]).is_file()
    done = subprocess.run(["bash", "-n"], input=content["run"], text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_batch_script_of_slurm_asks_ray_for_what_it_knows_and_hands_the_job_on(tmp_path: Path) -> None:
    for name, prints in (
        ("scontrol", "seq --format node-%.0f 7 20000"),
        ("getent", "echo 10.0.0.7 $2"),
        ("srun", "printf '%s\\n' \"$@\""),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{prints}\n")
        (tmp_path / name).chmod(0o755)
    told = {"SLURM_JOB_NODELIST": "node-[7-8]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "32"}
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", **told}
    script = ROOT / "cluster" / "slurm.sh"

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", script, *words], env=environment, text=True, capture_output=True, check=False)

    words = run("my job.yaml", "--set", "seed=1").stdout.splitlines()
    started, entry = words[words.index("ray") + 2 : words.index("--")], words[words.index("--") + 1 :]
    assert words[words.index("ray") + 1] == "symmetric-run"
    assert entry == ["env", "RAY_ADDRESS=10.0.0.7:6379", "raymia", "scan", "my job.yaml", "--set", "seed=1"]
    asked = symmetric_run.make_context("_", [*started], resilient_parsing=True).params
    assert (asked["address"], asked["min_nodes"]) == ("10.0.0.7:6379", 2)
    rest = curate_and_validate_ray_start_args(started)
    assert rest == ["--num-cpus=32", "--include-dashboard=false"]
    assert start.make_context("start", rest).params["num_cpus"] == 32
    refused = run()
    assert (refused.returncode, refused.stderr) == (2, "slurm.sh: give a job: sbatch cluster/slurm.sh JOB.yaml\n")


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "jobs").glob("*.yaml")))
def test_every_ready_job_is_a_valid_job(name: str) -> None:
    content = yaml.safe_load((ROOT / "jobs" / name).read_text())
    if name == "runtime_env.yaml":
        environment, parcel = load_runtime_env(ROOT / "jobs" / name)
        assert environment["working_dir"] == "."
        assert parcel is not None
        assert parcel.holds("raymia/cli/app.py")
        assert not parcel.holds("docs")
        return
    content.pop("sweep", None)
    job = parse_job({"run": "runs/x", **content}, name)
    assert job.unit_size % job.pool.batch_size == 0


def test_the_image_has_the_version_of_ray_that_is_pinned() -> None:
    pinned = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ray=="))
    assert f"rayproject/ray:{pinned.removeprefix('ray==')}-py311" in (ROOT / "cluster" / "Dockerfile").read_text()


def test_the_dashboard_shows_the_metrics_that_a_scan_exports() -> None:
    text = (ROOT / "cluster" / "grafana.json").read_text()
    panels = json.loads(text)["panels"]
    assert len(panels) >= 6
    source = (ROOT / "raymia" / "scan" / "monitoring.py").read_text()
    for name in ("images", "units", "quarantined", "evaluations", "stage_seconds"):
        assert f"raymia_{name}_total" in source
        assert f"ray_raymia_{name}_total" in text


@pytest.mark.parametrize("name", ["aws-head.json", "aws-worker.json"])
def test_roles_grant_no_wildcard_action(name: str) -> None:
    for statement in load(f"iam/{name}")["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert all("*" not in action for action in actions)
