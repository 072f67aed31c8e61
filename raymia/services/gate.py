"""When a service may be called: so many calls a minute, none while it asks to be left alone, one at a time while it is down."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from raymia.run.record import CallCounts

FAILURES = 10
"""Failures one after the other, over all processes that ask, after which a service is taken to be down."""
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0
"""Pauses before a service that is down is tried again double from the first to the longest."""
LOOK_AGAIN_S = 0.2
"""A call that waits for another's outcome looks again after this."""

Outcome = Literal["answered", "refused", "failed", "busy"]
"""Of a call: an image, a refusal that stays, a fault of the service or of the way to it, or that too much was asked of it."""


@dataclass(frozen=True)
class Turn:
    """Whether a call may be made.

    Attributes:
        wait_s: seconds to wait before asking for a turn again; none where the call may be made now.
        over: why no call may be made any more; none where that is not so.
    """

    wait_s: float | None = None
    over: str | None = None


@dataclass(frozen=True)
class Limits:
    """What a gate lets through.

    Attributes:
        calls_per_minute: at most; none for any number.
        patience_s: for so long a service may answer nothing at all before the scan ends.
        images: that may still be paid for; none for any number.
    """

    calls_per_minute: float | None = None
    patience_s: float = 600.0
    images: int | None = None


class Gate:
    """A token bucket, the pauses that a service asks for, and a circuit that opens while it is down; for one thread."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        """Open the gate.

        Args:
            limits: of what it lets through.
            clock: in seconds.
        """
        self.limits = limits
        self._clock = clock
        self._rate = None if limits.calls_per_minute is None else limits.calls_per_minute / 60.0
        self._tokens, self._filled = 1.0, clock()
        self._paused_until = 0.0
        self._failures = 0
        self._pause_s = FIRST_PAUSE_S
        self._trying = False
        self._last_answer: float | None = None
        self._why = ""
        self._promised = 0
        self.calls = CallCounts()

    @property
    def _down(self) -> bool:
        return self._failures >= FAILURES

    def take(self) -> Turn:
        """A turn, or how long to wait for one."""
        now = self._clock()
        if self._last_answer is None:
            self._last_answer = now
        silent_s = now - self._last_answer
        if self.limits.images is not None and self._promised >= self.limits.images:
            if self._promised > self.calls.answered and silent_s <= self.limits.patience_s:
                return Turn(wait_s=LOOK_AGAIN_S)  # one that is under way may yet fail, which costs nothing
            return Turn(over=f"is at its budget: all {self.limits.images} images that it pays for were asked for")
        if self._why and silent_s > self.limits.patience_s:
            return Turn(over=f"has answered nothing for {silent_s:.0f} s (last: {self._why})")
        if now < self._paused_until:
            return Turn(wait_s=self._paused_until - now)
        if self._down and self._trying:
            return Turn(wait_s=LOOK_AGAIN_S)
        wait_s = self._wait_for_token(now)
        if wait_s > 0.0:
            return Turn(wait_s=wait_s)
        self._trying = self._down
        self._promised += 1
        self.calls.made += 1
        return Turn()

    def _wait_for_token(self, now: float) -> float:
        """Take a token from the bucket, which holds a second's worth and at least one; else seconds until there is one."""
        if self._rate is None:
            return 0.0
        self._tokens = min(max(1.0, self._rate), self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        if self._tokens < 1.0 - 1e-9:
            return (1.0 - self._tokens) / self._rate
        self._tokens -= 1.0
        return 0.0

    def report(self, outcome: Outcome, wait_s: float | None = None, why: str = "") -> None:
        """Say what became of a call that had its turn.

        Args:
            outcome: of the call.
            wait_s: for which the service asks to be left alone.
            why: it failed.
        """
        self._trying = False
        now = self._clock()
        if wait_s is not None:
            self._paused_until = max(self._paused_until, now + min(wait_s, self.limits.patience_s))
        if outcome != "answered":
            self._promised -= 1
        if outcome in ("answered", "refused"):
            self._failures, self._pause_s, self._why, self._last_answer = 0, FIRST_PAUSE_S, "", now
            if outcome == "answered":
                self.calls.answered += 1
            else:
                self.calls.refused += 1
            return
        self._why = why
        if outcome == "busy":
            self.calls.busy += 1
            if wait_s is None:
                self._pause(now)
            return
        self.calls.failed += 1
        self._failures += 1
        if self._down:
            self._pause(now)

    def _pause(self, now: float) -> None:
        """Let nothing through for a while; a pause that is on is not made longer by calls that were under way before it."""
        if now < self._paused_until:
            return
        self._paused_until = now + self._pause_s
        self._pause_s = min(2.0 * self._pause_s, LONGEST_PAUSE_S)

    def counted(self) -> CallCounts:
        """What became of all calls so far."""
        return self.calls


@runtime_checkable
class Turns(Protocol):
    """A gate, wherever it stands: in this process, or in one that all processes ask."""

    async def take(self) -> Turn:
        """See `Gate.take`."""
        ...

    async def report(self, outcome: Outcome, wait_s: float | None = None, why: str = "") -> None:
        """See `Gate.report`."""
        ...


@dataclass(frozen=True)
class OwnTurns:
    """A gate in the process that asks."""

    gate: Gate = field(default_factory=lambda: Gate(Limits()))

    async def take(self) -> Turn:
        """See `Gate.take`."""
        return self.gate.take()

    async def report(self, outcome: Outcome, wait_s: float | None = None, why: str = "") -> None:
        """See `Gate.report`."""
        self.gate.report(outcome, wait_s, why)

    def counted(self) -> CallCounts:
        """See `Gate.counted`."""
        return self.gate.counted()
