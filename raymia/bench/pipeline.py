"""What the pipeline costs: a scan's images/s over those of a bare loop with the same scorer.

The model sleeps, so that many replicas fit on few cores and nothing but the pipeline is measured: reading, decoding, moving
rows, committing. Rates are from a quarter of the batches to the last, by the times at which replicas were done.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import yaml
from PIL import Image
from pydantic import BaseModel, Field
from rich.console import Console
from torch import Tensor

from raymia.attacks.base import Access, Attack, Evaluations, Signal
from raymia.config import Job, parse_job
from raymia.curation.writing import write_tar
from raymia.data.images import decode_image
from raymia.data.tar import RawSample, read_shard
from raymia.engine.start import on_ray
from raymia.run.ledger import Ledger
from raymia.scan.pipeline import run_scan
from raymia.scan.scorer import Scorer
from raymia.services.protocol import Queries
from raymia.trial.trial import Trial

SCAN_BATCH, SCAN_SIDE_PX, SHARDS = 8, 512, 8
"""Images in a batch, side of the decoded images, and shards of the data set."""


class Sleeping(Attack):
    """Sleeps for each batch, which takes no processor; the score is the time at which the batch was done."""

    name: ClassVar = "sleeping"
    access: ClassVar = Access.CONTROL
    reference: ClassVar = "none"

    seconds: float = Field(0.5, description="Seconds that a full batch takes.")

    def signals(self) -> list[Signal]:
        return [Signal("sleeping", primary=True)]

    def cost(self) -> Evaluations:
        return Evaluations()

    def score(self, trial: Trial) -> dict[str, Tensor]:
        time.sleep(self.seconds * len(trial.keys) / SCAN_BATCH)
        return {"sleeping": torch.full((len(trial.keys),), time.time(), dtype=torch.double)}


class NoService:
    """Stands where a service would, in front of an attack that asks for nothing."""

    def answer(self, queries: Queries) -> Tensor:
        """Not asked."""
        raise NotImplementedError


def scorer_without_model(job: Job, dtype: str = "", device: str = "", threads: int | None = None) -> Scorer:
    """A scorer without a model; its arguments are those of `raymia.scan.pipeline.LoadScorer`."""
    return Scorer(None, job.attacks, job.seed, black_box=NoService())


class PipelineBench(BaseModel):
    """A scan against a bare loop, at one duration of a batch."""

    batch_s: float
    replicas: int
    images: int
    """Images that the scan scores."""
    bare_images_s: float
    """Rate of one replica over images that are decoded already."""
    scan_images_s: float
    """Rate of the whole scan, with all its replicas."""
    ratio: float
    """The scan's rate over that of as many bare loops."""


def bench_pipeline(
    durations_s: Sequence[float] = (0.25, 0.5, 1.0), replicas: Sequence[int] = (1,), samples: int = 192
) -> Iterator[PipelineBench]:
    """Scan generated JPEGs of 768 x 640 px at 512 px on a local Ray, with batches of 8.

    Args:
        durations_s: seconds that a batch takes, each in turn.
        replicas: numbers of replicas of the scans, each in turn; replicas sleep, so that there may be more than cores.
        samples: images for each replica.
    """
    with on_ray("benchmark", max(replicas)), tempfile.TemporaryDirectory() as folder:
        for seconds in durations_s:
            for count in replicas:
                shards = write_shards(Path(folder) / f"{seconds}-{count}", samples * count)
                bare, scan = bare_loop(shards, seconds), scan_rate(shards, seconds, count)
                yield PipelineBench(
                    batch_s=seconds,
                    replicas=count,
                    images=samples * count,
                    bare_images_s=bare,
                    scan_images_s=scan,
                    ratio=scan / (bare * count),
                )


def write_shards(folder: Path, samples: int) -> Path:
    """Write tars of one JPEG over and over, and the manifest over them; return `folder`, which is made."""
    folder.mkdir()
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((768, 640), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    files = {"jpg": buffer.getvalue(), "txt": b"a picture"}
    for shard in range(SHARDS):
        with (folder / f"m{shard}.tar").open("wb") as stream:
            write_tar(stream, ((f"{i:06d}", files) for i in range(shard, samples, SHARDS)))
    split = {"name": "members", "member": True, "shards": ["m*.tar"], "samples": samples}
    (folder / "manifest.yaml").write_text(yaml.safe_dump({"name": "set", "splits": [split]}))
    return folder


def job_of(folder: Path, seconds: float, replicas: int) -> Job:
    """A scan of the shards in a folder by the sleeping attack, `seconds` for a batch."""
    content = {
        "manifest": str(folder / "manifest.yaml"),
        "replica": {"model": "testbed-tiny", "dtype": "float32", "resolution_px": SCAN_SIDE_PX},
        "attacks": {"random": {}},
        "pool": {"replicas": replicas, "gpus_per_replica": 0, "batch_size": SCAN_BATCH},
        "unit_size": SCAN_BATCH,
        "run": str(folder / f"run-{seconds}-{replicas}"),
    }
    job = parse_job(content, "benchmark")
    return job.model_copy(update={"attacks": {"sleeping": Sleeping(seconds=seconds)}})


def bare_loop(folder: Path, seconds: float) -> float:
    """Images per second of the scorer over images that are decoded already."""
    job = job_of(folder, seconds, 1)
    samples = [s for path in sorted(folder.glob("m*.tar")) for s in read_shard(str(path)) if isinstance(s, RawSample)]
    pixels = np.stack([decode_image(s.image or b"", SCAN_SIDE_PX, 10**8).pixels for s in samples[:SCAN_BATCH]])
    scorer, rounds = scorer_without_model(job), len(samples) // SCAN_BATCH
    start = time.perf_counter()
    for i in range(rounds):
        part = samples[i * SCAN_BATCH : (i + 1) * SCAN_BATCH]
        scorer.score(pixels, [sample.caption for sample in part], [sample.key for sample in part])
    return rounds * SCAN_BATCH / (time.perf_counter() - start)


def scan_rate(folder: Path, seconds: float, replicas: int) -> float:
    """Images per second of a whole scan, by the times at which its batches were done."""
    job = job_of(folder, seconds, replicas)
    run_scan(job, Console(quiet=True), scorer_without_model)
    times = sorted(set(Ledger(job.run).scores(["sleeping"]).column("sleeping").to_pylist()))
    steady = times[len(times) // 4 :]
    return float((len(steady) - 1) * SCAN_BATCH / (steady[-1] - steady[0]))
