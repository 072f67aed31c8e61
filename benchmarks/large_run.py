"""A scan of many samples with a model that is nearly free: its rate, the memory of driver and workers, and what resuming costs.

    python benchmarks/large_run.py [--samples 100000]

Then a run directory of 1,000,000 units, made by the ledger's own functions, is listed and resumed.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import ray
import yaml
from PIL import Image
from rich.console import Console

from raymia.config import Job, parse_job
from raymia.curation.writing import write_tar
from raymia.run.ledger import Ledger, ShardRecord
from raymia.scan.pipeline import run_scan

PER_SHARD = 5000
MIB = 2**20


class Memory(threading.Thread):
    """Samples the memory of this process and of Ray's workers once a second.

    Attributes:
        readings: (seconds, driver MiB, workers MiB).
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.readings: list[tuple[float, float, float]] = []
        self._start = time.monotonic()
        self._stopped = threading.Event()

    def run(self) -> None:
        own = psutil.Process()
        while not self._stopped.wait(1.0):
            workers = 0.0
            for process in psutil.process_iter(["cmdline"]):
                try:
                    if " ".join(process.info["cmdline"] or []).startswith("ray::"):
                        full = process.memory_full_info()
                        workers += full.uss
                except psutil.Error:
                    continue
            self.readings.append((time.monotonic() - self._start, own.memory_full_info().uss / MIB, workers / MIB))

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def describe(self) -> str:
        """Medians of each tenth of the time, and the peaks: flat memory has equal medians."""
        rows = np.array(self.readings)
        tenths = [np.median(part, 0) for part in np.array_split(rows, 10)]
        lines = []
        for i, name in ((1, "driver"), (2, "workers together")):
            series = " ".join(f"{tenth[i]:.0f}" for tenth in tenths)
            lines.append(f"{name}: {series} MiB by tenths of the time, at most {rows[:, i].max():.0f}")
        return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100_000)
    options = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    with tempfile.TemporaryDirectory() as folder:
        job = make_job(Path(folder), options.samples)
        cores = os.cpu_count() or 2
        ray.init("local", num_cpus=cores + 1, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        memory = Memory()
        memory.start()
        start = time.monotonic()
        counts = run_scan(job, Console(quiet=True))
        seconds = time.monotonic() - start
        memory.stop()
        print(
            f"{counts.scored:,} samples in {seconds:.0f} s, {counts.scored / seconds:.0f} images/s, {job.pool.replicas} replica"
        )
        print(memory.describe())
        stages = (Ledger(job.run).read_run() or {})["stages"]
        print(f"seconds by stage: {stages}")
        start = time.monotonic()
        run_scan(job, Console(quiet=True))
        print(f"resumed with nothing to do in {time.monotonic() - start:.2f} s")
        ray.shutdown()
        million(Path(folder) / "million")


def make_job(folder: Path, samples: int) -> Job:
    """Shards of small JPEGs, each different, and a job whose attack asks nothing of the model."""
    random = np.random.default_rng(0)

    def picture(i: int) -> dict[str, bytes]:
        buffer = io.BytesIO()
        coarse = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((96, 80), Image.Resampling.BICUBIC).save(buffer, "JPEG")
        return {"jpg": buffer.getvalue(), "txt": b"picture %d" % i}

    for shard, first in enumerate(range(0, samples, PER_SHARD)):
        with (folder / f"m{shard:04d}.tar").open("wb") as stream:
            write_tar(stream, ((f"{i:07d}", picture(i)) for i in range(first, min(samples, first + PER_SHARD))))
    split = {"name": "all", "member": "unknown", "shards": ["m*.tar"], "samples": samples}
    (folder / "manifest.yaml").write_text(yaml.safe_dump({"name": "many", "splits": [split]}))
    content = {
        "manifest": str(folder / "manifest.yaml"),
        "replica": {"model": "testbed-tiny", "dtype": "float32", "resolution_px": 64},
        "attacks": {"random": {}},
        "pool": {"replicas": 1, "gpus_per_replica": 0, "batch_size": 64},
        "unit_size": 256,
        "run": str(folder / "run"),
    }
    return parse_job(content, "benchmark")


def million(folder: Path, shards: int = 25_000, units: int = 40) -> None:
    """A run of 25,000 finished shards of 40 units each, listed as a resuming scan lists it."""
    ledger = Ledger(str(folder))
    ledger.require_writable()
    counted = {"samples": 256 * units, "bytes_reached": 10**9, "reason": None, "detail": None}
    counted |= {"units": units, "scored": 256 * units - 3, "by_reason": {"corrupt_image": 3}, "flagged": {"no_caption": 9}}
    for i in range(shards):
        record = ShardRecord.model_validate({"split": "all", "shard": f"{i:05d}", **counted})
        for name in (f"shards/all/{i:05d}.json", f"scores/all/{i:05d}.shard.parquet"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(record.model_dump_json().encode() if name.endswith("json") else b"")
    start = time.monotonic()
    state = ledger.state()
    seconds = time.monotonic() - start
    print(f"{state.units:,} units of {len(state.finished):,} shards listed in {seconds:.1f} s: {state.samples:,} samples")


if __name__ == "__main__":
    main()
