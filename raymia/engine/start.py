"""A Ray to work on: the one at hand, the cluster that this process runs in, or a local one; and its settings."""

from __future__ import annotations

import logging
import os
import re
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants
from ray.data import DataContext
from ray.exceptions import RayError

from raymia.engine.addresses import require_cluster
from raymia.errors import ConfigError, RaymiaError, first_line

NO_PROGRESS_TIMEOUT_S = 900.0
"""A stream in which nothing has moved for so long is ended by an error."""
TRANSIENT_ERRORS = ["CUDA out of memory", "NCCL"]
"""Words of errors of the work after which Ray tries it again."""
STORAGE_ERRORS = ["ServiceUnavailable", "Connection reset", "Connection aborted", "HTTP (429|5..)", "googleapi.*(429|5..)"]
STDERR = 2
WRAPPED = "ray.exceptions.UserCodeException:"
CAUSE_LINE = re.compile(r"^[A-Za-z_.]*(Error|Exception|Interrupt): ")
OWN_ERROR = re.compile(r"^raymia\.[A-Za-z_.]*Error: ")
"""Before the message of an error of raymia's own, which says all that is to be said."""
LOCAL_SETTINGS = {"RAY_worker_niceness": "0", "OMP_WAIT_POLICY": "PASSIVE", "RAY_enable_metrics_collection": "0"}
"""Of a local Ray, unless the environment says otherwise. Workers run at normal priority: at Ray's own niceness of 15 a scan on
a busy laptop gets next to no processor. Threads of torch that wait for each other sleep: where other processes want the same
cores, and in a scan some always do, spinning took up to fifty times the processor time of the work itself. Nobody scrapes the
metrics of a local Ray, whose port answers everyone."""
ON_LOOPBACK = {ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}
"""With this Ray takes the loopback address for its own, as it does on a Mac, and all of its processes listen there alone. On
Linux they listen on every interface otherwise, whatever `_node_ip_address` says."""
QUIET = {"RAY_DATA_DISABLE_PROGRESS_BARS": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
"""Settings for which Ray would otherwise tell the person at the terminal that they may be set. The last silences Ray's core,
which calls it an error that actors of Ray Data have their arguments in the object store; what ends a scan comes as an error of
Python's. Who wants the core's logs of a local Ray sets it to info."""
LEVEL_LINE = b"Set ray log level from environment variable"
CHATTY = ("ray.data", "ray._private.worker", "ray._private.authentication", "ray.dashboard")
"""Ray's loggers whose lines at the start of a scan say nothing that a person can act on."""


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
    started_here = _start(replicas)
    try:
        yield
    except RayError as error:
        raise RaymiaError(f"{what} stopped: {_cause(error)}; run the same command again to resume") from error
    finally:
        if started_here:
            ray.shutdown()


def _start(replicas: int) -> bool:
    if ray.is_initialized():
        return False
    hush()
    address = os.environ.get("RAY_ADDRESS", "").strip()
    if address and address != "local":
        join(address, logging_level=logging.WARNING)
        return True
    for name, value in LOCAL_SETTINGS.items():
        os.environ.setdefault(name, value)
    with _on_loopback():
        cores = os.cpu_count() or 1
        _init("a local Ray", address="local", num_cpus=cores + replicas, include_dashboard=False, logging_level=logging.WARNING)
    return True


def join(address: str, **options: Any) -> None:
    """Join a cluster, or say within half a minute that there is none.

    Args:
        address: as RAY_ADDRESS has it.
        options: of `ray.init`.

    Raises:
        ConfigError: it is no address of a cluster, or nothing answers there.
        RaymiaError: what answers cannot be joined.
    """
    require_cluster(address)
    _init(f"the Ray cluster at {address}", address=address, **options)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Within this block a Ray that is started listens on the loopback address alone."""
    before = {name: os.environ.get(name) for name in ON_LOOPBACK}
    os.environ |= ON_LOOPBACK
    # Ray reads the variable when it is imported; its processes read it when they start.
    enabled, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = enabled
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _init(what: str, **options: Any) -> None:
    """`ray.init` without the line in which Ray's core tells the terminal how much it logs; what else is said is said after.

    The handlers of signals stay what they were: Ray's own would end this process in the middle of whatever it does.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    terminal = os.dup(STDERR)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), STDERR)
        try:
            ray.init(log_to_driver=False, **options)
        except Exception as error:
            kind = ConfigError if isinstance(error, ConnectionError | ValueError) else RaymiaError
            raise kind(f"{what} cannot be used: {first_line(error)}") from error
        finally:
            os.dup2(terminal, STDERR)
            os.close(terminal)
            said.seek(0)
            os.write(STDERR, b"".join(line for line in said if LEVEL_LINE not in line))
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():
                    signal.signal(number, handler)


def hush() -> None:
    """Keep Ray's own remarks at its start from the terminal; its errors still reach it."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)


def configure(patience_s: float = NO_PROGRESS_TIMEOUT_S) -> None:
    """Settings of Ray Data under which no failure is silent and a stall becomes an error.

    Args:
        patience_s: for which nothing may move.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = 0
    context.actor_init_retry_on_errors = True
    context.max_consecutive_actor_init_deaths = 3
    context.retried_map_errors = TRANSIENT_ERRORS
    context.max_map_retries = 2
    context.retried_io_errors = [*dict.fromkeys([*context.retried_io_errors, *STORAGE_ERRORS])]
    context.execution_no_progress_timeout_s = patience_s


def _cause(error: BaseException) -> str:
    """What a user's own code raised behind an error that Ray wrapped, in one line."""
    causes = [error]
    while (inner := getattr(causes[-1], "cause", None) or causes[-1].__cause__) is not None and inner not in causes:
        causes.append(inner)
    # Ray's own wrappers carry the trace of the worker as text; its last unindented "Type: message" is the cause, but for the
    # one by which Ray says that there was a cause.
    for candidate in reversed(causes):
        lines = [line for line in str(candidate).splitlines() if CAUSE_LINE.match(line) and not line.startswith(WRAPPED)]
        if lines:
            return OWN_ERROR.sub("", lines[-1].strip())
    return f"{type(causes[-1]).__name__}: {' '.join(str(causes[-1]).split())[:500]}"
