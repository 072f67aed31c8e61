"""The scan on Ray: shards stream through CPU decoding to a pool of replicas; the driver commits what comes back."""

from __future__ import annotations

import logging
import os
import platform
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError
from ray.util.metrics import Counter as Metric
from rich.console import Console

from raymia.config import Job, PoolConfig
from raymia.data.manifest import labels_hold
from raymia.data.prompts import Prompts
from raymia.data.selection import ShardReader
from raymia.data.shards import ShardDatasource, ShardWork
from raymia.errors import ConfigError, RaymiaError
from raymia.replica.stable_diffusion import native_on_cpu
from raymia.scan.decoding import decode_rows
from raymia.scan.latents import LatentCache
from raymia.scan.ledger import RETRIED_FAULTS, Counts, Ledger
from raymia.scan.lock import RunLock
from raymia.scan.monitoring import PROGRESS_FILE, Monitor, bottleneck, now_text
from raymia.scan.plan import ScanPlan, make_plan, require_same
from raymia.scan.progress import ScanProgress
from raymia.scan.rows import RowScorer, score_rows, score_type
from raymia.scan.scorer import Scorer
from raymia.scan.storage import without_secrets
from raymia.scan.units import Units

log = logging.getLogger(__name__)

NO_PROGRESS_TIMEOUT_S = 900.0
TRANSIENT_ERRORS = ["CUDA out of memory", "NCCL"]
STORAGE_ERRORS = ["ServiceUnavailable", "Connection reset", "Connection aborted", "HTTP (429|5..)", "googleapi.*(429|5..)"]
# Other than a replica's share, since Ray fuses stages of equal needs, and decoding inside replicas would make them wait.
DECODING_CPUS = 0.5
CAUSE_LINE = re.compile(r"^[A-Za-z_.]*(Error|Exception|Interrupt): ")
LIBRARIES = ("raymia", "ray", "torch", "diffusers", "transformers", "open_clip_torch", "pyarrow", "pillow", "numpy")


Prepared = tuple[ScanPlan, Ledger, dict[str, Any] | None]
"""A plan, its run directory, and the run.json of the run that is resumed, if any."""


def run_scan(job: Job, console: Console) -> Counts:
    """Scan a job to its end, resuming what its run directory holds; return the counts of the whole run.

    Raises:
        ConfigError: the job cannot be run as it is; nothing was started.
        RaymiaError: the scan failed; what was committed is kept.
    """
    control = job.control()
    prepared = [_prepare(part) for part in ([job] if control is None else [job, control])]
    with ExitStack() as locks:
        for _, ledger, _ in prepared:
            locks.enter_context(RunLock(ledger.storage))
        return _scan_all(prepared, console)


def _scan_all(prepared: Sequence[Prepared], console: Console) -> Counts:
    """Scan the attacked model and then the control model, where there is one; return the counts of the first."""
    pool = prepared[0][0].job.pool
    with on_ray("scan", pool.replicas or pool.max_replicas or 1):
        counts = _scan(*prepared[0], console)
        for part in prepared[1:]:
            log.info("scanning the control model %s", part[0].job.replica.model)
            _scan(*part, console)
    return counts


def _prepare(job: Job) -> Prepared:
    """Check a job and its run directory; the last is the run.json of the run that is resumed, if any."""
    plan = make_plan(job)
    ledger = Ledger(job.run)
    ledger.require_writable()
    if plan.latent_cache is not None:
        plan.latent_cache.require_writable()
    return plan, ledger, require_same(ledger, plan)


@contextmanager
def on_ray(what: str, replicas: int = 0) -> Iterator[None]:
    """Within this block there is a Ray: the one at hand, the cluster that this process runs in, or a local one on loopback.

    A local Ray is given a CPU slot per CPU replica on top of the machine's cores, so that replicas never take the
    slots that reading and decoding need.

    Args:
        what: is done in the block, for errors.
        replicas: that a local Ray is to have room for.

    Raises:
        RaymiaError: what is done failed on Ray.
    """
    started_here = _start_ray(replicas)
    try:
        yield
    except RayError as error:
        raise RaymiaError(f"{what} stopped: {_cause(error)}; run the same command again to resume") from error
    finally:
        if started_here:
            ray.shutdown()


def _start_ray(replicas: int) -> bool:
    if ray.is_initialized():
        return False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    quiet = {"logging_level": logging.WARNING, "log_to_driver": False}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
        return True
    cores = os.cpu_count() or 1
    ray.init("local", num_cpus=cores + replicas, include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
    return True


class Pool:
    """How replicas are placed: a pool configuration made definite on the cluster at hand."""

    def __init__(self, config: PoolConfig, resources: dict[str, float], local_cores: int) -> None:
        """Args:
            config: the job's.
            resources: what the cluster has.
            local_cores: of the machine that a replica runs on.

        Raises:
            ConfigError: the cluster has no room for the pool.
        """
        gpus = resources.get("GPU", 0.0)
        self.gpus_per_replica = config.gpus_per_replica if config.gpus_per_replica is not None else float(gpus > 0)
        self.device = config.device
        if self.device == "auto":
            self.device = "cuda" if self.gpus_per_replica else "cpu"
        cpus = resources.get("CPU", 1.0)
        by_default = int(gpus / self.gpus_per_replica) if self.gpus_per_replica else int(min(cpus, local_cores)) // 2
        self.replicas = config.replicas or config.max_replicas or max(1, by_default)
        self.min_replicas = config.min_replicas
        self.initial_replicas = config.initial_replicas or config.max_replicas
        self.label_selector = config.label_selector
        self.threads = max(1, local_cores // self.replicas) if self.device == "cpu" else None
        wanted = self.min_replicas or self.replicas
        if not self.gpus_per_replica and wanted >= cpus:
            raise ConfigError(
                f"pool: {wanted} CPU replicas leave none of the cluster's {cpus:g} CPUs for reading and decoding; "
                "lower pool.replicas or add nodes"
            )

    @property
    def placement(self) -> dict[str, Any]:
        """Resources and labels of the node that a replica asks for."""
        asked: dict[str, Any] = {"num_gpus": self.gpus_per_replica} if self.gpus_per_replica else {"num_cpus": 1}
        return asked | ({"label_selector": self.label_selector} if self.label_selector else {})

    @property
    def strategy(self) -> ActorPoolStrategy:
        """For Ray Data; an elastic pool asks for its full size at once."""
        if self.min_replicas is None:
            return ActorPoolStrategy(size=self.replicas)
        return ActorPoolStrategy(min_size=self.min_replicas, max_size=self.replicas, initial_size=self.initial_replicas)


@dataclass(frozen=True)
class Stream:
    """What flows through Ray: which samples, cut into which rows, in front of what.

    Attributes:
        what: is going on, for the progress line.
        expected: samples in all, where known.
        row_type: of the committed rows.
        load: loads the scorer, within the process that is to use it.
        cache: of latents; then the scorer is a `Scorer`.
    """

    what: str
    readers: Sequence[ShardReader]
    expected: int | None
    unit_size: int
    batch_size: int
    resolution_px: int
    max_pixels: int
    prompts: Prompts
    row_type: pa.StructType
    load: Callable[[], RowScorer]
    cache: LatentCache | None = None


class ScoringActor:
    """A scorer behind Ray Data: one batch row in, one scored row out."""

    def __init__(
        self, load: Callable[[], RowScorer], row_type: pa.StructType, resolution_px: int, cache: LatentCache | None
    ) -> None:
        self._scorer = load()
        self._row_type = row_type
        self._resolution_px = resolution_px
        self._cache = cache

    def __call__(self, table: pa.Table) -> pa.Table:
        return score_rows(table, self._scorer, self._row_type, self._resolution_px, self._cache)


def _scan(plan: ScanPlan, ledger: Ledger, before: dict[str, Any] | None, console: Console) -> Counts:
    job = plan.job
    pool = Pool(job.pool, ray.cluster_resources(), os.cpu_count() or 1)
    dtype = job.replica.dtype
    if dtype == "auto":
        dtype = "bfloat16" if pool.device == "cuda" else "float32"
    if before is not None and before["dtype"] != dtype:
        raise ConfigError(
            f"replica.dtype: this run was made in {before['dtype']} and would go on in {dtype}; "
            f"set replica.dtype: {before['dtype']} or choose another run directory"
        )
    if pool.device == "cpu" and not native_on_cpu(dtype):
        log.warning("replica.dtype: this processor has no %s and emulates it; float32 is faster", dtype)
    record: dict[str, Any] = {
        **plan.identity,
        "dtype": dtype,
        "free": without_secrets(job.model_dump(mode="json", include={"pool", "max_quarantined_fraction", "control_model"})),
        "labels_hold": labels_hold(plan.manifest, job.replica.model),
        "signals": plan.signals,
        "expected": plan.expected,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "started": before["started"] if before else now_text(),
        "attempted": now_text(),
        "attempts": (before.get("attempts", 0) if before else 0) + 1,
        "evaluations": before["evaluations"] if before else {},
        "stages": before["stages"] if before else {},
        "seconds": before["seconds"] if before else 0.0,
        "bottleneck": before["bottleneck"] if before else None,
        "finished": None,
        "counts": None,
    }
    ledger.write_run(record)
    if plan.clusters is not None:
        ledger.write_clusters(plan.clusters)
    start = time.monotonic()
    rows = Stream(
        what="scan",
        readers=plan.readers,
        expected=plan.expected,
        unit_size=job.unit_size,
        batch_size=job.pool.batch_size,
        resolution_px=job.replica.resolution_px,
        max_pixels=job.max_pixels,
        prompts=Prompts(job.caption_source, job.seed),
        row_type=score_type(plan.signal_names),
        load=partial(Scorer.from_job, job, dtype, pool.device, pool.threads),
        cache=plan.latent_cache,
    )
    monitor, streamed_s = stream(rows, ledger, pool, console)
    counts = ledger.counts(plan.expected)
    if streamed_s:
        name, why = bottleneck(monitor.stages, streamed_s, pool.replicas)
        record["bottleneck"] = {"stage": name, "why": why}
    record["evaluations"] = dict(Counter(record["evaluations"]) + monitor.evaluations)
    stages = {name: round(record["stages"].get(name, 0.0) + value, 3) for name, value in monitor.stages.items()}
    record |= {"stages": stages, "seconds": round(record["seconds"] + time.monotonic() - start, 1)}
    ledger.write_run({**record, "finished": now_text(), "counts": counts.model_dump()})
    ledger.write_text(PROGRESS_FILE, monitor.progress().model_dump_json(indent=2) + "\n")
    return counts


def stream(rows: Stream, ledger: Ledger, pool: Pool, console: Console) -> tuple[Monitor, float]:
    """Score everything that is not committed; return what was counted, and seconds from the first batch to the last."""
    state = ledger.state()
    retried = [place for place, shard_record in state.finished.items() if shard_record.reason in RETRIED_FAULTS]
    for place in retried:
        ledger.forget_shard(*place)
    if retried:
        state = ledger.state()
    work = [
        ShardWork(reader, state.committed.get(reader.place, frozenset()))
        for reader in rows.readers
        if reader.place not in state.finished
    ]
    monitor = Monitor(ledger, state, rows.expected, Metric)
    first: float | None = None
    with ScanProgress(console, rows.expected, state.samples, state.units, state.quarantined, rows.what) as progress:
        if not work:
            return monitor, 0.0
        units = Units(ledger, rows.row_type, rows.unit_size, state.committed, progress, monitor)
        configure(DataContext.get_current())
        source = ShardDatasource(work, rows.unit_size, rows.batch_size, rows.prompts)
        scored = (
            ray.data.read_datasource(source, override_num_blocks=len(work))
            .map_batches(
                decode_rows,
                fn_args=(rows.resolution_px, rows.max_pixels, rows.cache),
                batch_format="pyarrow",
                batch_size=1,
                num_cpus=DECODING_CPUS,
                udf_modifying_row_count=False,
            )
            .repartition(target_num_rows_per_block=1)
            .map_batches(
                ScoringActor,
                fn_constructor_args=(rows.load, rows.row_type, rows.resolution_px, rows.cache),
                batch_format="pyarrow",
                batch_size=1,
                compute=pool.strategy,
                udf_modifying_row_count=False,
                **pool.placement,
            )
        )
        for table in scored.iter_batches(batch_size=None, batch_format="pyarrow"):
            first = first or time.monotonic()
            units.add(table)
        if units.pending:
            raise RaymiaError(f"the stream ended before {', '.join(units.pending[:3])}; run the same command again to resume")
    return monitor, time.monotonic() - first if first else 0.0


def configure(context: DataContext) -> None:
    """Settings under which no failure is silent and a stall becomes an error."""
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = 0
    context.actor_init_retry_on_errors = True
    context.max_consecutive_actor_init_deaths = 3
    context.retried_map_errors = TRANSIENT_ERRORS
    context.max_map_retries = 2
    context.retried_io_errors = [*dict.fromkeys([*context.retried_io_errors, *STORAGE_ERRORS])]
    context.execution_no_progress_timeout_s = NO_PROGRESS_TIMEOUT_S


def _cause(error: BaseException) -> str:
    """What a user's own code raised behind an error that Ray wrapped, in one line."""
    causes = [error]
    while (inner := getattr(causes[-1], "cause", None) or causes[-1].__cause__) is not None and inner not in causes:
        causes.append(inner)
    # Ray's own wrappers carry the trace of the worker as text; its last unindented "Type: message" is the cause.
    for candidate in reversed(causes):
        lines = [line for line in str(candidate).splitlines() if CAUSE_LINE.match(line)]
        if lines:
            return lines[-1].strip()
    return f"{type(causes[-1]).__name__}: {' '.join(str(causes[-1]).split())[:500]}"
