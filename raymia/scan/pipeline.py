"""A scan from its job to its counts: what is left is streamed through decoding to a pool of replicas, and committed."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version

import pyarrow as pa
from rich.console import Console

from raymia.config import Job
from raymia.data.prompts import Prompts
from raymia.data.selection import ShardReader
from raymia.data.shapes import Shapes
from raymia.data.tar import RETRIED
from raymia.engine.counters import Counter
from raymia.engine.pool import Pool
from raymia.engine.progress import ScanProgress
from raymia.engine.start import NO_PROGRESS_TIMEOUT_S, on_ray
from raymia.engine.stream import Work, stream
from raymia.engine.turns import PoolTurns
from raymia.errors import ConfigError, RaymiaError
from raymia.replica.device import dtype_on, native_on_cpu
from raymia.run.columns import scored
from raymia.run.ledger import Ledger, LedgerState
from raymia.run.lock import RunLock
from raymia.run.record import PROGRESS_FILE, Counts, Evaluations, ScanRecord, ServiceRecord, now_text
from raymia.run.shown import FIELD
from raymia.run.tally import Tally
from raymia.scan import texts
from raymia.scan.batches import BATCH_SCHEMA, ReadBatches, ShardWork
from raymia.scan.decoding import decode_rows
from raymia.scan.latents import LatentCache
from raymia.scan.monitoring import Monitor, bottleneck
from raymia.scan.plan import ScanPlan, hold, make_plan, require_same
from raymia.scan.rows import RowScorer, score_rows
from raymia.scan.scorer import load_scorer
from raymia.scan.service import ask_first, gate_of, summed_up
from raymia.scan.units import Units
from raymia.services.hosted import Hosted
from raymia.urls import public, without_secrets

log = logging.getLogger(__name__)

LIBRARIES = ("raymia", "ray", "torch", "diffusers", "transformers", "open_clip_torch", "pyarrow", "pillow", "numpy")

LoadScorer = Callable[..., RowScorer]
"""Makes the scorer of a job, within the process that is to use it, of a dtype, a device and a number of CPU threads; and, where
a service is attacked, of `turns`, in which it is called."""
LONGEST_ANSWER_S = 86400.0
"""A batch of images that a service makes slowly, or of which few are asked for a minute, takes long, and that is no fault."""


@dataclass(frozen=True)
class Prepared:
    """A scan that may begin.

    Attributes:
        before: the record of the run that is resumed, if any.
        asked: what the first questions to a hosted service said, where one is attacked.
    """

    plan: ScanPlan
    ledger: Ledger
    before: ScanRecord | None
    asked: ServiceRecord | None = None


def run_scan(job: Job, console: Console, load: LoadScorer = load_scorer) -> Counts:
    """Scan a job to its end, resuming what its run directory holds; return the counts of the whole run.

    Args:
        job: what to scan.
        console: where progress is shown.
        load: makes the scorer that each actor of the pool holds.

    Raises:
        ConfigError: the job cannot be run as it is; nothing was started.
        RaymiaError: the scan failed; what was committed is kept. A `LostLeaseError` where another scan has taken the run over.
    """
    return run_plan(make_plan(job), console, load)


def run_plan(plan: ScanPlan, console: Console, load: LoadScorer = load_scorer) -> Counts:
    """Scan what was planned; see `run_scan`."""
    control = plan.job.control()
    prepared = [_prepare(part) for part in ([plan] if control is None else [plan, make_plan(control)])]
    with ExitStack() as locks:
        for part in prepared:
            locks.enter_context(RunLock(part.ledger.storage))
        return _scan_all([_first_asked(part) for part in prepared], console, load)


def _first_asked(prepared: Prepared) -> Prepared:
    """The scan after its first questions, where it is of a hosted service."""
    service = prepared.plan.job.hosted
    if not isinstance(service, Hosted):
        return prepared
    before = None if prepared.before is None else prepared.before.service
    return replace(prepared, asked=ask_first(prepared.plan.job, service, before))


def _scan_all(prepared: Sequence[Prepared], console: Console, load: LoadScorer) -> Counts:
    """Scan the attacked model and then the control model, where there is one; return the counts of the first."""
    pool = prepared[0].plan.job.pool
    with on_ray("scan", pool.replicas or pool.max_replicas or 1):
        counts = _scan(prepared[0], console, load)
        for part in prepared[1:]:
            log.info("scanning the control model %s", public(part.plan.job.subject))
            _scan(part, console, load)
    return counts


def _prepare(plan: ScanPlan) -> Prepared:
    """Check the run directory of a plan."""
    ledger = Ledger(plan.job.run)
    ledger.require_writable()
    if plan.latent_cache is not None:
        plan.latent_cache.require_writable()
    return Prepared(plan, ledger, require_same(ledger, plan))


@dataclass(frozen=True)
class Stream:
    """What flows through Ray: which samples, cut into which rows, in front of what.

    Attributes:
        what: is going on, for the progress line.
        expected: samples in all, where known.
        row_type: of the committed rows.
        load: loads the scorer, within the process that is to use it.
        cache: of latents; then the scorer is a `Scorer`.
        patience_s: for which nothing may move.
    """

    what: str
    readers: Sequence[ShardReader]
    expected: int | None
    unit_size: int
    batch_size: int
    shapes: Shapes
    max_pixels: int
    prompts: Prompts
    row_type: pa.StructType
    load: Callable[[], RowScorer]
    cache: LatentCache | None = None
    patience_s: float = NO_PROGRESS_TIMEOUT_S

    def decoder(self) -> Work:
        """What decodes batch rows; a process that does it loads `raymia.scan.decoding` and no model library."""
        return partial(decode_rows, shapes=self.shapes, max_pixels=self.max_pixels, cache=self.cache)

    def loader(self) -> Callable[[], Work]:
        """What makes the scoring ready, in the process that is to do it."""
        return partial(ready, self.load, self.row_type, self.shapes, self.cache)


def ready(load: Callable[[], RowScorer], row_type: pa.StructType, shapes: Shapes, cache: LatentCache | None) -> Work:
    """Load the scorer; see `score_rows`."""
    return partial(score_rows, scorer=load(), row_type=row_type, shapes=shapes, cache=cache)


def _scan(prepared: Prepared, console: Console, load: LoadScorer) -> Counts:
    plan, ledger = prepared.plan, prepared.ledger
    job = plan.job
    pool = Pool.here(job.pool if job.hosted is None else job.pool.model_copy(update={"gpus_per_replica": 0.0}))
    dtype = _dtype(prepared, pool)
    record = _begun(prepared, dtype)
    record.service = prepared.asked
    ledger.write_run(record)
    if plan.clusters is not None:
        ledger.write_clusters(plan.clusters)
    start = time.monotonic()
    service = job.hosted if isinstance(job.hosted, Hosted) else None
    turns = None if service is None else PoolTurns(gate_of(job, service, prepared.asked))
    staged = job.hosted is None and job.model.text == "stage"
    if staged:
        _encode_texts(plan, ledger, pool, dtype, console)
    rows = Stream(
        what="scan",
        readers=plan.readers,
        expected=plan.expected,
        unit_size=job.unit_size,
        batch_size=job.pool.batch_size,
        shapes=plan.shapes,
        max_pixels=job.max_pixels,
        prompts=Prompts(job.caption_source, job.seed),
        row_type=scored(plan.signal_names, [FIELD] if any(attack.exhibits for attack in job.attacks.values()) else []),
        load=partial(load, plan.pinned, dtype, pool.device, pool.threads, **({} if turns is None else {"turns": turns})),
        cache=plan.latent_cache,
        # A service that answers nothing ends the scan by the patience of the job.
        patience_s=NO_PROGRESS_TIMEOUT_S if service is None else LONGEST_ANSWER_S,
    )
    monitor, streamed_s = score_all(rows, ledger, pool, console)
    counts = ledger.counts(plan.expected)
    if streamed_s:
        record.bottleneck = bottleneck(monitor.stages, streamed_s, pool.replicas)
    record.evaluations = record.evaluations + monitor.evaluations
    record.stages = {name: round(record.stages.get(name, 0.0) + value, 3) for name, value in monitor.stages.items()}
    record.seconds = round(record.seconds + time.monotonic() - start, 1)
    record.finished, record.counts = now_text(), counts
    if service is not None and turns is not None and record.service is not None:
        record.service = summed_up(job, service, record.service, turns.counted())
    ledger.write_run(record)
    ledger.write_text(PROGRESS_FILE, monitor.progress().model_dump_json(indent=2) + "\n")
    if staged:
        texts.remove_texts(job.run)
    return counts


def _encode_texts(plan: ScanPlan, ledger: Ledger, pool: Pool, dtype: str, console: Console) -> None:
    """Encode what attacks tell the model of each sample that is left, in a pool of text encoders that ends before this returns.

    What an earlier attempt encoded is kept. Shards are read for their captions alone.

    Raises:
        ConfigError: the text encoders cannot be loaded.
    """
    job, tally = plan.job, Tally()
    prompts = Prompts(job.caption_source, job.seed)
    work = _left(plan.readers, _state_without_retried(ledger))
    reads = [ReadBatches(part, job.unit_size, job.pool.batch_size, prompts) for part in work]
    if not reads:
        return
    load = partial(texts.ready, plan.pinned, dtype, pool.device, pool.threads)
    with ScanProgress(console, plan.expected, tally, "texts") as progress:
        for table in stream(reads, BATCH_SCHEMA, texts.texts_alone, load, pool):
            tally.scored += sum(table.column("texts").to_pylist())
            progress.show()


def _left(readers: Sequence[ShardReader], state: LedgerState) -> list[ShardWork]:
    """Shards that are not finished, with the units of them that are."""
    return [
        ShardWork(reader, state.committed.get(reader.place, frozenset()))
        for reader in readers
        if reader.place not in state.finished
    ]


def _dtype(prepared: Prepared, pool: Pool) -> str:
    """The dtype that the replicas compute in."""
    job, before = prepared.plan.job, prepared.before
    dtype = dtype_on("float32" if job.hosted is not None else job.model.dtype, pool.device)
    if before is not None and before.dtype != dtype:
        raise ConfigError(
            f"replica.dtype: this run was made in {before.dtype} and would go on in {dtype}; "
            f"set replica.dtype: {before.dtype} or choose another run directory"
        )
    if pool.device == "cpu" and not native_on_cpu(dtype):
        log.warning("replica.dtype: this processor has no %s and emulates it; float32 is faster", dtype)
    return dtype


def _begun(prepared: Prepared, dtype: str) -> ScanRecord:
    """The record of an attempt that begins."""
    plan, before = prepared.plan, prepared.before
    free = plan.job.model_dump(mode="json", include={"pool", "max_quarantined_fraction", "control_model"})
    return ScanRecord(
        **plan.identity,
        dtype=dtype,
        free=without_secrets(free),
        labels_hold=hold(plan.manifest, plan.job),
        signals=plan.signals,
        expected=plan.expected,
        versions={"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        started=before.started if before else now_text(),
        attempted=now_text(),
        attempts=(before.attempts if before else 0) + 1,
        evaluations=before.evaluations if before else Evaluations(),
        stages=before.stages if before else {},
        seconds=before.seconds if before else 0.0,
        bottleneck=before.bottleneck if before else None,
        finished=None,
    )


def score_all(rows: Stream, ledger: Ledger, pool: Pool, console: Console) -> tuple[Monitor, float]:
    """Score everything that is not committed; return what was counted, and seconds from the first batch to the last."""
    state = _state_without_retried(ledger)
    work = _left(rows.readers, state)
    first: float | None = None
    with ScanProgress(console, rows.expected, state.tally, rows.what) as progress:
        monitor = Monitor(ledger, state.tally, rows.expected, Counter, progress.show)
        if not work:
            return monitor, 0.0
        units = Units(ledger, rows.row_type, rows.unit_size, state.committed, monitor)
        reads = [ReadBatches(part, rows.unit_size, rows.batch_size, rows.prompts) for part in work]
        for table in stream(reads, BATCH_SCHEMA, rows.decoder(), rows.loader(), pool, rows.patience_s):
            first = first or time.monotonic()
            units.add(table)
        if units.pending:
            raise RaymiaError(f"the stream ended before {', '.join(units.pending[:3])}; run the same command again to resume")
    return monitor, time.monotonic() - first if first else 0.0


def _state_without_retried(ledger: Ledger) -> LedgerState:
    """What is committed, less the shards that are to be tried again."""
    state = ledger.state()
    retried = [place for place, record in state.finished.items() if record.reason in RETRIED]
    for place in retried:
        ledger.forget_shard(*place)
    return ledger.state() if retried else state
