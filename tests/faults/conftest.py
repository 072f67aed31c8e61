"""A real Ray of several nodes on this machine, scans in processes of their own, and what an undisturbed one gives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from ray.cluster_utils import Cluster

from tests.conftest import good_members, tar_bytes

PLUGIN = str(Path(__file__).parent / "plugin")
SHARDS = {"m0": 32, "m1": 24, "n0": 32, "n1": 24}
UNIT = 8
DEADLINE_S = 240.0


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    """A head without GPU and two nodes with a fake GPU each."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    before = {name: os.environ.get(name, "") for name in ("PYTHONPATH", "PATH")}
    # Jobs run `python`, as they do in the image of a cluster.
    os.environ |= {"PYTHONPATH": PLUGIN, "PATH": f"{Path(sys.executable).parent}:{before['PATH']}"}
    started = Cluster(
        initialize_head=True,
        # Jobs go through the head's agent, whose usual port another Ray of this machine may have.
        head_node_args={
            "num_cpus": 3,
            "num_gpus": 0,
            "include_dashboard": True,
            "dashboard_port": 0,
            "dashboard_agent_listen_port": 0,
        },
    )
    for _ in range(2):
        started.add_node(num_cpus=2, num_gpus=1)
    yield started
    started.shutdown()
    os.environ |= before


class Scan:
    """A job over shards of its own, and the process that scans it."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.run = folder / "run"
        self._address = address
        self._process: subprocess.Popen[str] | None = None

    def write_job(self, **changes: Any) -> Path:
        manifest = {
            "name": "set",
            "splits": [
                {"name": "members", "member": True, "shards": ["m*.tar"]},
                {"name": "non_members", "member": False, "shards": ["n*.tar"]},
            ],
        }
        (self.folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
        job = {
            "manifest": str(self.folder / "manifest.yaml"),
            "replica": {"model": "testbed-tiny", "dtype": "float32", "resolution_px": 64},
            "attacks": {"loss": {"timesteps": [100], "draws": 1}, "fragile": {"sleep_s": 0.25}},
            "pool": {"replicas": 2, "gpus_per_replica": 1, "device": "cpu", "batch_size": 4},
            "unit_size": UNIT,
            "run": str(self.run),
        }
        path = self.folder / "job.yaml"
        path.write_text(yaml.safe_dump(job | changes))
        return path

    def start(self, environment: dict[str, str] | None = None, **changes: Any) -> None:
        """Begin to scan; `changes` replace fields of the job."""
        job = self.write_job(**changes)
        surroundings = {**os.environ, "RAY_ADDRESS": self._address, "PYTHONPATH": PLUGIN, **(environment or {})}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "raymia", "scan", str(job)],
            env=surroundings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def end(self) -> tuple[int, str]:
        """Wait for the scan to end; its exit code and what it printed."""
        assert self._process is not None
        output, _ = self._process.communicate(timeout=DEADLINE_S)
        return self._process.returncode, output

    def kill(self) -> None:
        """SIGKILL to the driver."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def wait_for_units(self, count: int) -> None:
        """Wait until so many units have been committed in all."""
        deadline = time.monotonic() + DEADLINE_S
        while self.units() < count:
            assert self._process is not None
            assert self._process.poll() is None, self.end()[1]
            assert time.monotonic() < deadline, "no progress"
            time.sleep(0.05)

    def units(self) -> int:
        whole = sum(SHARDS[path.stem] // UNIT for path in (self.run / "shards").rglob("*.json"))
        return whole + len(list((self.run / "scores").rglob("*-??????.parquet")))

    def table(self) -> dict[str, bytes]:
        """Every file of the final table."""
        folders = [self.run / "scores", self.run / "quarantine"]
        return {str(p.relative_to(self.run)): p.read_bytes() for f in folders for p in f.rglob("*.parquet")}


def replica_processes() -> list[psutil.Process]:
    """The scoring actors on this machine."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if line.startswith("ray::") and "ScoringActor" in line:
            found.append(process)
    return found


@pytest.fixture
def make_scan(tmp_path: Path, cluster: Cluster) -> Iterator[Callable[[str], Scan]]:
    """Scans over the same shards, each in a folder of its own."""
    made: list[Scan] = []

    def make(name: str) -> Scan:
        folder = tmp_path / name
        write_shards(folder)
        made.append(Scan(folder, cluster.address))
        return made[-1]

    yield make
    for scan in made:
        if scan._process is not None and scan._process.poll() is None:
            scan.kill()


def write_shards(folder: Path) -> None:
    folder.mkdir()
    for number, (name, count) in enumerate(SHARDS.items()):
        (folder / f"{name}.tar").write_bytes(tar_bytes(good_members(count, start=1000 * number)))


@pytest.fixture(scope="package")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> dict[str, bytes]:
    """The final table of a scan that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed") / "scan"
    write_shards(folder)
    scan = Scan(folder, cluster.address)
    scan.start()
    code, output = scan.end()
    assert code == 0, output
    return scan.table()
