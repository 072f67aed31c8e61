"""One way to run a stage over many parts on Ray: results come back as they are made, parts that are done are not run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import ray
from rich.console import Console

from raymia.engine.progress import StageProgress
from raymia.engine.start import on_ray

P = TypeVar("P")
R = TypeVar("R")

WAITING_PER_CPU = 4
"""Parts handed to Ray beyond those that run: enough for an autoscaler to see that there is more to do."""
RETRIES = 3
"""Of a part whose process or node was lost."""


def run_parts(
    what: str, parts: Sequence[P], work: Callable[[P], R], size: Callable[[R], int], console: Console, cpus: float = 1.0
) -> list[R]:
    """Do `work` to every part, in any order, on all CPUs of the cluster or of this machine; return the results.

    Args:
        what: is going on, for the progress line.
        parts: what is left to do.
        work: writes what it makes itself, whole, so that a part is done when its result is there.
        size: of a result, in samples, for the progress line.
        cpus: that a part takes.

    Raises:
        RaymiaError: a part failed; what is done stays done.
    """
    if not parts:
        return []
    results: list[R] = []
    with on_ray(what), StageProgress(console, what, len(parts)) as progress:
        task = ray.remote(num_cpus=cpus, max_retries=RETRIES)(_done).options(name=what)
        held = ray.put(work)
        at_once = max(1, int(ray.cluster_resources().get("CPU", 1.0) / cpus)) + WAITING_PER_CPU
        waiting = iter(parts)
        running = [task.remote(held, part) for part, _ in zip(waiting, range(at_once), strict=False)]
        while running:
            (ready,), running = ray.wait(running, num_returns=1)
            result: R = ray.get(ready)
            running += [task.remote(held, part) for part, _ in zip(waiting, range(1), strict=False)]
            progress.part(size(result))
            results.append(result)
    return results


def _done(work: Callable[[P], R], part: P) -> R:
    return work(part)
