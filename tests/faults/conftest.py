"""A real Ray of several nodes on this machine, scans in this process or in their own, and what an undisturbed one gives."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pytest
import ray
import yaml
from ray._common.utils import get_default_ray_temp_dir
from ray._private.utils import write_ray_address
from ray.cluster_utils import Cluster

import raymia.attacks
from raymia.attacks.base import ATTACKS
from raymia.cli.console import Terminal
from raymia.cli.printing import print_counts
from raymia.config import load_job
from raymia.errors import ConfigError, RaymiaError
from raymia.scan.pipeline import run_scan
from tests.conftest import good_members, start_ray, tar_bytes, without_ray

PLUGIN = str(Path(__file__).parent / "plugin")
SHARDS = {"m0": 32, "m1": 24, "n0": 32, "n1": 24}
UNIT = 8
DEADLINE_S = 240.0
POOL = {"replicas": 1, "gpus_per_replica": 1, "device": "cpu", "batch_size": 4}
"""A replica costs seconds to start: where one will do, there is one."""


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    """A head without GPU and a node with a fake GPU, which this process drives in place of its local Ray."""
    had_local = ray.is_initialized()
    ray.shutdown()
    before = {name: os.environ.get(name, "") for name in ("PYTHONPATH", "PATH")}
    # Jobs run `python`, as they do in the image of a cluster.
    os.environ |= {"PYTHONPATH": PLUGIN, "PATH": f"{Path(sys.executable).parent}:{before['PATH']}"}
    # Jobs are told the address that stands in their Ray's temporary folder. Where several Rays share one folder, that is the
    # address of the one that started last, which may have ended.
    temporary = tempfile.mkdtemp(prefix="ray-")
    # The cluster writes its address there too, which no Ray of this machine may have made yet.
    Path(get_default_ray_temp_dir()).mkdir(parents=True, exist_ok=True)
    started = Cluster(
        initialize_head=True,
        # Jobs go through the head's agent, whose usual port another Ray of this machine may have.
        head_node_args={
            "num_cpus": 1,
            "num_gpus": 0,
            "include_dashboard": True,
            "dashboard_port": 0,
            "dashboard_agent_listen_port": 0,
            "temp_dir": temporary,
            "_system_config": {"metrics_report_interval_ms": 1000},
        },
    )
    write_ray_address(started.address, temporary)
    started.add_node(num_cpus=1, num_gpus=1)
    ray.init(started.address, log_to_driver=False)
    with _plugin():
        yield started
    ray.shutdown()
    started.shutdown()
    shutil.rmtree(temporary, ignore_errors=True)
    os.environ |= before
    if had_local:
        start_ray()


@contextmanager
def _plugin() -> Iterator[None]:
    """What `plugin/sitecustomize.py` brings to processes that start, for this one."""
    raymia.attacks.__path__.append(f"{PLUGIN}/attacks")
    ATTACKS.__dict__.pop("sources", None)
    sys.path.append(PLUGIN)
    fsspec.register_implementation("flaky", "flaky_storage.FlakyStorage", clobber=True)
    yield
    sys.path.remove(PLUGIN)
    raymia.attacks.__path__.remove(f"{PLUGIN}/attacks")
    ATTACKS.__dict__.pop("sources", None)


def attacks(**fragile: Any) -> dict[str, Any]:
    """The attacks of a job, of which one breaks where it is told to."""
    return {"loss": {"timesteps": [100], "draws": 1}, "fragile": fragile}


SLOW = attacks(sleep_s=0.25)
"""For what has to happen while a scan runs."""


class Scan:
    """A job over shards of its own, and what scans it: a thread of this process, or a process that can be killed."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.run = folder / "run"
        self._address = address
        self._process: subprocess.Popen[str] | None = None
        self._here: Future[tuple[int, str]] | None = None

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
            "attacks": attacks(),
            "pool": POOL,
            "unit_size": UNIT,
            "run": str(self.run),
        }
        path = self.folder / "job.yaml"
        path.write_text(yaml.safe_dump(job | changes))
        return path

    def start(self, **changes: Any) -> None:
        """Begin to scan in a thread of this process; `changes` replace fields of the job."""
        job = self.write_job(**changes)
        self._process = None
        self._here = ThreadPoolExecutor(1).submit(_scan_here, job)

    def start_apart(self, **changes: Any) -> None:
        """Begin to scan in a process of its own."""
        job = self.write_job(**changes)
        surroundings = {**os.environ, "RAY_ADDRESS": self._address, "PYTHONPATH": PLUGIN}
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
        if self._process is None:
            assert self._here is not None
            return self._here.result(DEADLINE_S)
        output, _ = self._process.communicate(timeout=DEADLINE_S)
        return self._process.returncode, output

    def kill(self) -> None:
        """SIGKILL to the driver."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    @property
    def running(self) -> bool:
        """Whether the scan has begun and not ended."""
        if self._process is not None:
            return self._process.poll() is None
        return self._here is not None and not self._here.done()

    def wait_for_units(self, count: int) -> None:
        """Wait until so many units have been committed in all."""
        deadline = time.monotonic() + DEADLINE_S
        while self.units() < count:
            assert self.running, self.end()[1]
            assert time.monotonic() < deadline, "no progress"
            time.sleep(0.05)

    def units(self) -> int:
        whole = sum(SHARDS[path.stem] // UNIT for path in (self.run / "shards").rglob("*.json"))
        return whole + len(list((self.run / "scores").rglob("*-??????.parquet")))

    def table(self) -> dict[str, bytes]:
        """Every file of the final table."""
        folders = [self.run / "scores", self.run / "quarantine"]
        return {str(p.relative_to(self.run)): p.read_bytes() for f in folders for p in f.rglob("*.parquet")}


def _scan_here(job: Path) -> tuple[int, str]:
    """What `raymia scan` does, in this process."""
    said = io.StringIO()
    console = Terminal(file=said, width=200)
    try:
        print_counts(console, run_scan(load_job(job), console))
    except RaymiaError as error:
        said.write(str(error))
        return (2 if isinstance(error, ConfigError) else 1), said.getvalue()
    return 0, said.getvalue()


def replica_processes() -> list[psutil.Process]:
    """The scoring actors on the test cluster, and on no other Ray of this machine."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            line = " ".join(process.cmdline())
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
        if scan.running:
            scan.kill() if scan._process is not None else scan.end()


def write_shards(folder: Path) -> None:
    folder.mkdir()
    for number, (name, count) in enumerate(SHARDS.items()):
        (folder / f"{name}.tar").write_bytes(tar_bytes(good_members(count, start=1000 * number)))


@pytest.fixture(scope="package")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> dict[str, bytes]:
    """The final table of a scan that nothing happens to, in a bare loop: it is the same on a cluster."""
    folder = tmp_path_factory.mktemp("undisturbed") / "scan"
    write_shards(folder)
    scan = Scan(folder, cluster.address)
    with without_ray():
        scan.start()
        code, output = scan.end()
    assert code == 0, output
    return scan.table()
