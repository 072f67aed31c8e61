"""Real parts shared by all tests: one Ray for the whole run, a tiny pipeline, and a maker of tars."""

# ruff: noqa: E402 - Python's collector, the environment and the hook are set before what they are set for is loaded

from __future__ import annotations

import gc

# What is loaded to test stays to the end: Python looks for cycles only after the collection, seldom, and never among that.
gc.disable()

import io
import os
import socket
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from unittest import mock

# Threads of torch that wait for each other sleep. They spin by default, and beside Ray's processes on a few cores that cost
# up to fifty times the work itself. Read once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("RAY_worker_niceness", "0")
# Ray reports nothing about the tests to its makers, and starts no process to do so.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import accelerate  # noqa: F401 - before the hook
import diffusers  # noqa: F401
import numpy as np
import pyarrow as pa
import pytest
import ray
import scipy.stats  # noqa: F401
import torch
import transformers  # noqa: F401
from jaxtyping import install_import_hook
from PIL import Image

# Shapes that the public functions of these rooms state are checked at every call in every test. What modules behind the hook
# are the first to import is compiled anew, whatever Python has of it; hence the libraries stand before it. What predicts memory
# states no shapes, and calls itself at every operation of a model.
ROOM = Path(__file__).parents[1] / "raymia" / "replica"
CHECKED = ["raymia.trial", *(f"raymia.replica.{path.stem}" for path in sorted(ROOM.glob("*.py")) if path.stem != "memory")]
install_import_hook(CHECKED, "beartype.beartype")

from raymia.config import PoolConfig
from raymia.engine.pool import Pool
from raymia.engine.shards import Read
from raymia.engine.start import LOCAL_SETTINGS
from raymia.engine.stream import Work
from raymia.scan import pipeline
from raymia.services.gate import OwnTurns
from raymia.testbed.architecture import save_tiny

pytest_plugins = ["tests.browsing", "tests.skips", "tests.workers"]

os.environ["RAY_AUTH_MODE"] = "disabled"
if "PYTEST_XDIST_WORKER" in os.environ:
    # Processes that test side by side have a core each: threads of both would wait for each other.
    torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
    gc.enable()


def free_port() -> int:
    """A port that nothing listens on, below those that the system hands out."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


S3 = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-test",
    "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
    "AWS_DEFAULT_REGION": "us-east-1",
}
"""Where the S3 server of `tests/run` is, and with which keys. Ray's processes know what the environment held at its start, and
the one Ray may start before the server."""


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    start_ray()
    yield
    ray.shutdown()


def start_ray() -> None:
    """Start the one Ray of the run of tests, with the settings of a scan's own."""
    with mock.patch.dict(os.environ, LOCAL_SETTINGS | S3):
        ray.init("local", num_cpus=3, num_gpus=0, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)


@contextmanager
def without_ray() -> Iterator[None]:
    """Within this block scans of this process read, decode and score in a bare loop, on as many threads as on a local Ray."""

    def stream(
        reads: Sequence[Read], schema: pa.Schema, decode: Work, load: Callable[[], Work], pool: Pool, patience_s: float = 0.0
    ) -> Iterator[pa.Table]:
        score = load()
        return (score(decode(table)) for read in reads for table in read())

    def here(config: PoolConfig) -> Pool:
        cores = os.cpu_count() or 1
        return Pool(config, {"CPU": 2.0 * cores}, cores)

    threads = torch.get_num_threads()
    try:
        with (
            mock.patch.object(pipeline, "stream", stream),
            mock.patch.object(pipeline, "on_ray", return_value=nullcontext()),
            mock.patch.object(Pool, "here", here),
            mock.patch.object(pipeline, "PoolTurns", OwnTurns),
        ):
            yield
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def bare_loop() -> Iterator[None]:
    """Scans of this process do without Ray: for tests of what a scan makes."""
    with without_ray():
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "pipeline"
    save_tiny(folder)
    return folder


def image_bytes(seed: int, kind: str = "JPEG", size: tuple[int, int] = (80, 64), mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def tar_bytes(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def good_members(count: int, start: int = 0) -> list[tuple[str, bytes]]:
    members = []
    for i in range(start, start + count):
        members += [(f"{i:04d}.jpg", image_bytes(i)), (f"{i:04d}.txt", f"picture number {i}".encode())]
    return members


@pytest.fixture
def write_tar(tmp_path: Path) -> Callable[[str, list[tuple[str, bytes]]], Path]:
    def write(name: str, members: list[tuple[str, bytes]]) -> Path:
        path = tmp_path / name
        path.write_bytes(tar_bytes(members))
        return path

    return write
