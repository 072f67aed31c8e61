"""One way to run a stage over many parts on Ray: results come back as they are made, parts that are done are not run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import TypeVar

import ray
from rich.console import Console

from raymia.engine.progress import StageProgress
from raymia.engine.start import on_ray

P = TypeVar("P")
R = TypeVar("R")

WAITING_PARTS = 4
"""Parts handed to Ray beyond those that run: enough for an autoscaler to see that there is more to do."""
PART_RETRIES = 3
"""How often a part whose process or node was lost is tried again."""


def run_parts(
    what: str, parts: Sequence[P], work: Callable[[P], R], size: Callable[[R], int], console: Console, cpus: float = 1.0
) -> list[R]:
    """Do `work` to every part, in any order, on all CPUs of the cluster or of this machine; return the results.

    Args:
        what: name of what is going on, for errors and the progress line.
        parts: what is left to do.
        work: does one part; it writes what it makes itself, whole, so that a part is done when its result is there.
        size: gives the number of samples of a result, for the progress line.
        console: where progress is shown.
        cpus: CPUs that a part takes.

    Returns:
        The results, in the order in which they were made.

    Raises:
        RaymiaError: a part failed; what is done stays done.
    """
    if not parts:
        return []
    results: list[R] = []
    with on_ray(what), StageProgress(console, what, len(parts)) as progress:
        task = ray.remote(num_cpus=cpus, max_retries=PART_RETRIES)(_do).options(name=what)
        shared_work = ray.put(work)
        at_once = max(1, int(ray.cluster_resources().get("CPU", 1.0) / cpus)) + WAITING_PARTS
        waiting = iter(parts)
        running = [task.remote(shared_work, part) for part in islice(waiting, at_once)]
        while running:
            (ready,), running = ray.wait(running, num_returns=1)
            result: R = ray.get(ready)
            running += [task.remote(shared_work, part) for part in islice(waiting, 1)]
            progress.part(size(result))
            results.append(result)
    return results


def _do(work: Callable[[P], R], part: P) -> R:
    return work(part)
