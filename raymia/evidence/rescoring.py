"""Scores computed again: some samples of an audit on this machine, or all of another party's."""

from __future__ import annotations

import math
import secrets
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import BaseModel

from raymia.config import Job, load_job
from raymia.data.manifest import load_manifest
from raymia.data.selection import IDENTITY, shard_readers
from raymia.data.tar import RawSample
from raymia.errors import ConfigError, RaymiaError
from raymia.evaluation.audit import audit
from raymia.evaluation.evidence import CONTROL_SPLIT, WORKS_SPLIT
from raymia.evaluation.signals import scored_rows
from raymia.evidence.asking import JOB_FILE, RUN
from raymia.evidence.registration import differences_of, read_registration
from raymia.evidence.sets import manifest_of
from raymia.run.ledger import Ledger
from raymia.run.record import Access, ScanRecord
from raymia.run.storage import Storage
from raymia.scan.plan import make_plan
from raymia.scan.score import Batch, score_job

SHARE = 0.01
FEWEST = 4
"""Samples that are scored again, at least."""
TOLERANCE = 0.02
"""Of the spread of a signal, by which two computations of one score may differ: other processors and libraries round
otherwise."""


class Agreement(BaseModel):
    """How two computations of the same scores agree."""

    samples: int
    of: int
    """Samples in all."""
    largest: float
    """Largest difference, in standard deviations of its signal."""
    signal: str
    """Where that is."""
    key: str
    tolerance: float = TOLERANCE
    p: tuple[float, float] | None = None
    """Of both parties' tests, where all was computed by both."""

    @property
    def holds(self) -> bool:
        """Whether all scores are within the tolerance."""
        return self.largest <= self.tolerance


def score_again(folder: Path, model: str | None = None) -> Agreement:
    """Score a hundredth of an audit's samples again, drawn anew each time.

    Args:
        folder: of the audit.
        model: where the model is on this machine, if not where the job says; it must be the same.

    Raises:
        ConfigError: the model is another one, or cannot be loaded.
    """
    record = Ledger(f"{folder}/{RUN}").require_scan()
    job = _job(folder, model)
    if (found := make_plan(job).identity["model"]["fingerprint"]) != record.model.fingerprint:
        raise ConfigError(f"{job.subject}: is not the model of this audit ({found}, expected {record.model.fingerprint})")
    table = scored_rows(Ledger(f"{folder}/{RUN}").frame())
    count = min(len(table), max(FEWEST, math.ceil(SHARE * len(table))))
    chosen = table.sample(count, random_state=secrets.randbits(32)).sort_values(IDENTITY, ignore_index=True)
    samples = _samples(folder, chosen)
    again = score_job(job, samples, device="auto", progress=False)
    lost = again[again["reason"].notna()]
    if len(lost):
        raise RaymiaError(f"sample {lost['key'].iloc[0]}: was scored, and cannot be now ({lost['reason'].iloc[0]})")
    return _compared(chosen, again, table, record)


def _job(folder: Path, model: str | None) -> Job:
    changes = [f"manifest={manifest_of(folder)}"]
    if model is not None:
        changes.append(f"replica.model={model}")
    return load_job(folder / JOB_FILE, changes, f"{folder}/{RUN}")


def _samples(folder: Path, chosen: pd.DataFrame) -> Batch:
    """The chosen samples, read from their shards."""
    manifest, place = load_manifest(manifest_of(folder))
    wanted = {tuple(row) for row in chosen[IDENTITY].to_numpy()}
    found: dict[tuple[str, ...], RawSample] = {}
    for reader in shard_readers(manifest, place):
        for item in reader.read():
            if isinstance(item, RawSample) and (*reader.place, item.key) in wanted and item.image is not None:
                found[*reader.place, item.key] = item
    rows = [found[tuple(row)] for row in chosen[IDENTITY].to_numpy()]
    return Batch([row.key for row in rows], [row.caption for row in rows], [row.image or b"" for row in rows])


def compare(folder: Path, other: Path) -> Agreement:
    """Hold two parties' audits of the same question against each other.

    Args:
        folder, other: of the audits.

    Raises:
        ConfigError: they asked different questions, and names in what.
    """
    ours, theirs = (read_registration(Storage(str(place))) for place in (folder, other))
    for place, registration in ((folder, ours), (other, theirs)):
        if registration is None:
            raise ConfigError(f"{place}: holds no registration; give the folder of a `raymia audit`")
    assert ours is not None
    assert theirs is not None
    if changed := differences_of(ours, theirs):
        raise ConfigError(f"{other}: is an audit of another question than {folder}: {'; '.join(changed)}")
    first, second = (Ledger(f"{place}/{RUN}") for place in (folder, other))
    one, two = (scored_rows(ledger.frame()).sort_values(IDENTITY, ignore_index=True) for ledger in (first, second))
    alone = one[IDENTITY].merge(two[IDENTITY], how="outer", indicator=True)
    alone = alone[alone["_merge"] != "both"]
    if len(alone):
        raise RaymiaError(f"sample {alone['key'].iloc[0]}: was scored by one party alone; {len(alone)} such samples")
    agreement = _compared(one, two, one, first.require_scan())
    access = Access(ours.access)
    p = [audit(f"{ledger.run}#{WORKS_SPLIT}", f"{ledger.run}#{CONTROL_SPLIT}", access).test.p for ledger in (first, second)]
    return agreement.model_copy(update={"p": (p[0], p[1])})


def _compared(one: pd.DataFrame, two: pd.DataFrame, table: pd.DataFrame, record: ScanRecord) -> Agreement:
    names = [signal.name for signal in record.signals]
    spread = table[names].to_numpy(float).std(axis=0)
    apart = np.abs(one[names].to_numpy(float) - two[names].to_numpy(float)) / np.where(spread > 0, spread, 1.0)
    row, column = np.unravel_index(int(apart.argmax()), apart.shape)
    return Agreement(
        samples=len(one),
        of=len(table),
        largest=float(apart[row, column]),
        signal=names[column],
        key=str(one["key"].iloc[row]),
    )
