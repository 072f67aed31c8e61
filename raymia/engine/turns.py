"""One gate for all processes of a scan that call a service: an actor that every one of them asks for its turn."""

from __future__ import annotations

from typing import Any, cast

import ray

from raymia.run.record import CallCounts
from raymia.services.gate import Gate, Outcome, Turn


class PoolTurns:
    """Turns of a gate that stands in a process of its own; see `raymia.services.gate.Turns`."""

    def __init__(self, gate: Gate) -> None:
        """Put a gate on the Ray that runs."""
        self._actor: Any = ray.remote(num_cpus=0)(Gate).remote(gate.limits)

    async def take(self, question: str) -> Turn:
        """See `Gate.take`."""
        return cast(Turn, await self._actor.take.remote(question))

    async def report(self, question: str, outcome: Outcome, wait_s: float | None = None, why: str = "") -> bool:
        """See `Gate.report`."""
        return cast(bool, await self._actor.report.remote(question, outcome, wait_s, why))

    def counted(self) -> CallCounts:
        """What became of all calls so far."""
        counted: CallCounts = ray.get(self._actor.counted.remote())
        return counted
