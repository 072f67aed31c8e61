"""The stage before a scan in which all its texts are encoded, so that replicas need no text encoders. No Ray here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pyarrow as pa
import torch

from raymia.config import Job
from raymia.replica.folder import find_pipeline
from raymia.replica.protocol import Replica
from raymia.replica.staged_text import ENDING, StagedText
from raymia.run.storage import Storage
from raymia.scan.cost import prompts_of
from raymia.shipped import model_folder

FOLDER = "text"
"""Of the run directory; it is there until the scan is finished."""
AT_ONCE = 16
"""Prompts that are encoded together."""


def remove_texts(run: str) -> None:
    """Remove the encoded texts of a run, which is finished."""
    storage = Storage(f"{run}/{FOLDER}")
    storage.remove(storage.names("", ENDING))


def staged_text(run: str) -> StagedText:
    """The encoded texts of a run."""
    return StagedText(Storage(f"{run}/{FOLDER}"))


def texts_alone(table: pa.Table) -> pa.Table:
    """What the model is told of the samples of batch rows, a row for each; images are left behind.

    What is wrong with samples and shards is for the scan to say.
    """
    told = [
        [one["caption"] if one["prompt"] is None else one["prompt"] for one in samples or () if one["reason"] is None]
        for samples in table.column("samples").to_pylist()
    ]
    return pa.table({"told": pa.array(told, pa.list_(pa.string()))})


def ready(job: Job, dtype: str, device: str, threads: int | None) -> Callable[[pa.Table], pa.Table]:
    """Load text encoders alone, in the process that is to use them.

    Args:
        job: whose model's they are, and whose run keeps what they give.
        dtype: that the replicas will compute in.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads that this process may use; none leaves torch's default.

    Returns:
        What encodes and keeps all that attacks ask for of the texts of rows, and gives how many texts they were.

    Raises:
        ConfigError: the text encoders cannot be loaded, or diffusers' own pipeline cannot use them.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    config = job.model
    kept = staged_text(job.run)
    pipeline = find_pipeline(model_folder(config.model), with_weights=True, revision=config.revision, said=config.said())
    encoders = pipeline.load_text(config.options(dtype, device), kept)
    return partial(_encode, job=job, encoders=encoders, kept=kept)


def _encode(table: pa.Table, job: Job, encoders: Replica, kept: StagedText) -> pa.Table:
    counts = []
    for texts in table.column("told").to_pylist():
        counts.append(len(texts))
        lacking = kept.lacking(prompts_of(job.attacks.values(), encoders.schedule, texts)) if texts else []
        for first in range(0, len(lacking), AT_ONCE):
            part = lacking[first : first + AT_ONCE]
            kept.keep(part, encoders.text(part))
    return pa.table({"texts": pa.array(counts, pa.int64())})
