"""One way to run a stage over many parts on Ray: parts that are done are skipped, results come back as they are made."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray
from ray.data import DataContext
from rich.console import Console

from raymia.scan.pipeline import configure, on_ray
from raymia.scan.progress import StageProgress

P = TypeVar("P")
R = TypeVar("R")


def run_parts(
    what: str, parts: Sequence[P], work: Callable[[P], R], size: Callable[[R], int], console: Console, cpus: float = 1.0
) -> list[R]:
    """Do `work` to every part, in any order, on all CPUs of the cluster or of this machine; return the results.

    Args:
        what: is going on, for the progress line.
        parts: what is left to do; each is pickled to a worker.
        work: writes what it makes itself, whole, so that a part is done when its result is there.
        size: of a result, in samples, for the progress line.
        cpus: that a part takes.

    Raises:
        RaymiaError: a part failed; what is done stays done.
    """
    if not parts:
        return []
    results: list[R] = []
    with on_ray(what):
        configure(DataContext.get_current())
        # Parts and results travel as bytes between our own processes: Arrow has no columns for them.
        rows = ray.data.from_items([{"part": pickle.dumps(part)} for part in parts], override_num_blocks=len(parts))
        done = rows.map(_Work(work), num_cpus=cpus)
        with StageProgress(console, what, len(parts)) as progress:
            for row in done.iter_rows():
                result: R = pickle.loads(row["result"])  # noqa: S301 - made by our own worker
                progress.part(size(result))
                results.append(result)
    return results


class _Work:
    def __init__(self, work: Callable[[Any], Any]) -> None:
        self._work = work

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"result": pickle.dumps(self._work(pickle.loads(row["part"])))}  # noqa: S301 - made by our own driver
