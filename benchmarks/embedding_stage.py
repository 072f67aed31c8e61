"""Where CLIP embeddings are best computed: in the scorer, or by actors of their own. Both on Ray, interleaved, on the test bed.

    python benchmarks/embedding_stage.py [--rounds 3]

In the scorer, each replica holds a CLIP too and embeds the images that it has on its device anyway. As a stage, the same
number of processes is split: all but one score, one embeds, and the images travel through the object store a second time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy

from raymia.config import Job, parse_job
from raymia.data.manifest import load_manifest
from raymia.data.prompts import Prompts
from raymia.data.selection import shard_readers
from raymia.data.shapes import square
from raymia.engine.shards import ShardDatasource
from raymia.engine.start import configure
from raymia.engine.stream import DECODING_CPUS
from raymia.features.clip import Clip
from raymia.run.columns import scored
from raymia.scan.batches import BATCH_SCHEMA, ReadBatches, ShardWork
from raymia.scan.decoding import decode_rows
from raymia.scan.rows import score_rows
from raymia.scan.scorer import load_scorer
from raymia.testbed import CLIP

BATCH, SIDE_PX = 32, 64
JOB = {
    "manifest": "testbed",
    "replica": {"model": "testbed", "dtype": "float32", "resolution_px": SIDE_PX},
    "attacks": {"loss": {}, "secmi": {}, "pia": {}},
    "run": "unused",
}


class Scoring:
    """A replica, with or without a CLIP."""

    def __init__(self, job: Job, threads: int) -> None:
        self._scorer = load_scorer(job, "float32", "cpu", threads)
        self._signals = [signal.name for attack in job.attacks.values() for signal in attack.signals()]

    def __call__(self, table: pa.Table) -> pa.Table:
        return score_rows(table, self._scorer, scored(self._signals), square(SIDE_PX))


class Embedding:
    """A CLIP alone: what it embeds stands in a column beside the images, which go on to the scorer."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._clip = Clip(str(CLIP), torch.device("cpu"))

    def __call__(self, table: pa.Table) -> pa.Table:
        for pixels in table.column("pixels"):
            if pixels.is_valid:
                images = np.frombuffer(pixels.as_buffer(), np.uint8).reshape(-1, SIDE_PX, SIDE_PX, 3)
                self._clip.embed_images(torch.tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1)
        return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cores = os.cpu_count() or 2
    ray.init("local", num_cpus=2 * cores, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    configure()
    rates: dict[str, list[float]] = {"in the scorer": [], "stage of its own": []}
    for _ in range(options.rounds):
        for name in rates:
            rates[name].append(run(cores, own_stage=name == "stage of its own"))
    for name, found in rates.items():
        print(f"{name}: median {statistics.median(found):.1f} images/s of {[round(rate, 1) for rate in found]}")
    ratios = [one / other for one, other in zip(*rates.values(), strict=True)]
    print(f"in the scorer over stage of its own: median {statistics.median(ratios):.2f} of {[round(r, 2) for r in ratios]}")


def run(processes: int, own_stage: bool) -> float:
    """Images per second from the first scored row to the last, so that loading takes no part."""
    job = parse_job(JOB if own_stage else {**JOB, "clip": "testbed"}, "benchmark")
    manifest, folder = load_manifest(job.manifest)
    work = [ShardWork(reader, frozenset()) for reader in shard_readers(manifest, folder)]
    source = ShardDatasource([ReadBatches(part, 64, BATCH, Prompts("own", 0)) for part in work], BATCH_SCHEMA)
    rows = ray.data.read_datasource(source, override_num_blocks=len(work)).map_batches(
        decode_rows, fn_args=(square(SIDE_PX), 10**8), batch_format="pyarrow", batch_size=1, num_cpus=DECODING_CPUS
    )
    rows = rows.repartition(target_num_rows_per_block=1)
    common = {"batch_format": "pyarrow", "batch_size": 1, "num_cpus": 1, "udf_modifying_row_count": False}
    if own_stage:
        rows = rows.map_batches(Embedding, fn_constructor_args=(1,), compute=ActorPoolStrategy(size=1), **common)
    scorers = processes - own_stage
    rows = rows.map_batches(Scoring, fn_constructor_args=(job, 1), compute=ActorPoolStrategy(size=scorers), **common)
    start, images = None, 0
    for table in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
        count = sum(len(scores) for scores in table.column("scores").to_pylist() if scores)
        if start is None and count:
            start, count = time.perf_counter(), 0
        images += count
    return images / (time.perf_counter() - (start or 0.0))


if __name__ == "__main__":
    main()
