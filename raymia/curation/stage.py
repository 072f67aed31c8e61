"""One way to run a stage over many parts on Ray: parts that are done are skipped, results come back as they are made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from ray.data import DataContext
from ray.exceptions import RayError
from rich.console import Console

from raymia.errors import RaymiaError
from raymia.scan.pipeline import cause, configure, start_ray
from raymia.scan.progress import StageProgress

log = logging.getLogger(__name__)

P = TypeVar("P")
R = TypeVar("R")


def run_parts(
    what: str, parts: Sequence[P], work: Callable[[P], R], size: Callable[[R], int], console: Console, cpus: float = 1.0
) -> Iterator[R]:
    """Do `work` to every part, in any order, on all CPUs of the cluster or of this machine.

    Args:
        what: is going on, for the progress line.
        parts: what is left to do; each is pickled to a worker.
        work: writes what it makes itself, whole, so that a part is done when its result is there.
        size: of a result, in samples, for the progress line.
        cpus: that a part takes.

    Yields:
        Results as they are made.

    Raises:
        RaymiaError: a part failed; what is done stays done.
    """
    if not parts:
        return
    started_here = start_ray(0)
    try:
        configure(DataContext.get_current())
        rows = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
        done = rows.map(_Work(work), num_cpus=cpus)
        with StageProgress(console, what, len(parts)) as progress:
            for row in done.iter_rows():
                progress.part(size(row["result"]))
                yield row["result"]
    except RayError as error:
        raise RaymiaError(f"{what} stopped: {cause(error)}; run the same command again to resume") from error
    finally:
        if started_here:
            ray.shutdown()


class _Work:
    def __init__(self, work: Callable[[Any], Any]) -> None:
        self._work = work

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"result": self._work(row["part"])}
