"""When a service may be called: so many calls a minute, none while it asks to be left alone, one at a time while it is down."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from raymia.run.record import CallCounts

FAILURES = 10
"""Failures one after the other, over all processes that ask, after which a service is taken to be down."""
FAILING = 3
"""Different questions that they must be of: one that a service always fails at says nothing of the others."""
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0
"""Pauses before a service that is down is tried again double from the first to the longest."""
LOOK_AGAIN_S = 0.2
"""A call that waits for another's outcome looks again after this."""

Outcome = Literal["answered", "refused", "failed", "unreachable", "busy", "stopped"]
"""Of a call: an image, a refusal that stays, a fault of the service or of the way to it, that there was no way to it, that too
much was asked of it, or a word that no call will be answered, such as that the key is not accepted."""


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
        lease_s: for so long a call may have no outcome before its process is taken to be dead.
    """

    calls_per_minute: float | None = None
    patience_s: float = 600.0
    images: int | None = None
    lease_s: float = 600.0


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
        self._failing: set[str] = set()
        self._pause_s = FIRST_PAUSE_S
        self._trying: str | None = None
        self._last_answer: float | None = None
        self._why = ""
        self._over: str | None = None
        self._under_way: dict[str, float] = {}
        self.calls = CallCounts()

    @property
    def _down(self) -> bool:
        return self._failures >= FAILURES and len(self._failing) >= FAILING

    def take(self, question: str) -> Turn:
        """A turn, or how long to wait for one.

        Args:
            question: what names it among all that are asked.
        """
        now = self._clock()
        if self._over is not None:
            return Turn(over=self._over)
        self._forget_dead(now)
        if self._last_answer is None:
            self._last_answer = now
        silent_s = now - self._last_answer
        if self.limits.images is not None and self.calls.answered + len(self._under_way) >= self.limits.images:
            if self._under_way:
                return Turn(wait_s=LOOK_AGAIN_S)  # one that is under way may yet fail, which costs nothing
            return Turn(over=f"is at its budget: the {self.limits.images} images that it still paid for were asked for")
        if self._why and silent_s > self.limits.patience_s:
            return Turn(over=f"has answered nothing for {silent_s:.0f} s (last: {self._why})")
        if now < self._paused_until:
            return Turn(wait_s=self._paused_until - now)
        if self._down and self._trying is not None:
            return Turn(wait_s=LOOK_AGAIN_S)
        wait_s = self._wait_for_token(now)
        if wait_s > 0.0:
            return Turn(wait_s=wait_s)
        self._trying = question if self._down else None
        self._under_way[question] = now
        self.calls.made += 1
        return Turn()

    def _forget_dead(self, now: float) -> None:
        """Wait no more for calls of which nothing was heard for too long."""
        for question in [one for one, since in self._under_way.items() if now - since > self.limits.lease_s]:
            self._end(question)

    def _end(self, question: str) -> None:
        self._under_way.pop(question, None)
        if self._trying == question:
            self._trying = None

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

    def report(self, question: str, outcome: Outcome, wait_s: float | None = None, why: str = "") -> bool:
        """Say what became of a call that had its turn.

        Args:
            question: whose call it was.
            outcome: of the call.
            wait_s: for which the service asks to be left alone.
            why: it failed.

        Returns:
            Whether it says nothing of the question: too much was asked, or there is no way to a service that was there before.
        """
        self._end(question)
        now = self._clock()
        if wait_s is not None:
            self._paused_until = max(self._paused_until, now + min(wait_s, self.limits.patience_s))
        if outcome in ("answered", "refused"):
            self._failures, self._pause_s, self._why, self._last_answer = 0, FIRST_PAUSE_S, "", now
            self._failing.clear()
            if outcome == "answered":
                self.calls.answered += 1
            else:
                self.calls.refused += 1
            return False
        self._why = why
        if outcome == "busy":
            self.calls.busy += 1
            if wait_s is None:
                self._pause(now)
            return True
        self.calls.failed += 1
        if outcome == "stopped":
            self._over = f"cannot be asked any more: {why}"
            return False
        self._failures += 1
        self._failing.add(question)
        gone = outcome == "unreachable" and self.calls.answered + self.calls.refused > 0
        if self._down or gone:
            self._pause(now)
        return gone

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

    async def take(self, question: str) -> Turn:
        """See `Gate.take`."""
        ...

    async def report(self, question: str, outcome: Outcome, wait_s: float | None = None, why: str = "") -> bool:
        """See `Gate.report`."""
        ...


@dataclass(frozen=True)
class OwnTurns:
    """A gate in the process that asks."""

    gate: Gate = field(default_factory=lambda: Gate(Limits()))

    async def take(self, question: str) -> Turn:
        """See `Gate.take`."""
        return self.gate.take(question)

    async def report(self, question: str, outcome: Outcome, wait_s: float | None = None, why: str = "") -> bool:
        """See `Gate.report`."""
        return self.gate.report(question, outcome, wait_s, why)

    def counted(self) -> CallCounts:
        """See `Gate.counted`."""
        return self.gate.counted()
