"""What a person sees while something runs: a live line on a terminal, a log line at an interval elsewhere."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from raymia.run.status import duration
from raymia.run.tally import Tally

log = logging.getLogger(__name__)

LOG_INTERVAL_S = 10.0


class ProgressLine(ABC):
    """A bar on a terminal; elsewhere a log line at an interval, and one at the end."""

    def __init__(self, console: Console, what: str, total: int | None, done: int, first: str) -> None:
        """Make the line; it appears when the block begins.

        Args:
            console: where to show; not a terminal means log lines.
            what: name of what is going on.
            total: how many things the bar counts to; none where that is unknown.
            done: how many of them are done already.
            first: text that is shown until there are facts.
        """
        self._what = what
        self._start = self._logged = time.monotonic()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if console.is_terminal:
            facts = TextColumn("{task.fields[facts]}")
            self._bar = Progress(
                TextColumn(what), BarColumn(), MofNCompleteColumn(), facts, TimeElapsedColumn(), console=console
            )
            self._task = self._bar.add_task(what, total=total, completed=done, facts=first)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            log.info("done: %s", self._facts())

    def _show(self, done: int) -> None:
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=done, facts=self._facts())
        elif now - self._logged >= LOG_INTERVAL_S:
            self._logged = now
            log.info("%s", self._facts())

    def _rate(self, count: int) -> float:
        return count / max(time.monotonic() - self._start, 1e-9)

    @abstractmethod
    def _facts(self) -> str:
        """How far things are, in a line."""


class ScanProgress(ProgressLine):
    """Shows a scan's tally, its rate and the time left.

    Samples that an earlier run committed count as done but not into the rate.
    """

    def __init__(self, console: Console, expected: int | None, tally: Tally, what: str = "scan") -> None:
        """Make the line of a scan.

        Args:
            console: where to show; not a terminal means log lines.
            expected: samples in all; none where the manifest does not say.
            tally: counts of the run, as earlier attempts have left them; whoever counts on calls `show`.
            what: name of what is going on.
        """
        super().__init__(console, what, expected, tally.samples, "starting replicas")
        self._expected = expected
        self._tally = tally
        self._before = tally.samples

    def show(self) -> None:
        """Show the tally, which has changed."""
        self._show(self._tally.samples)

    def _facts(self) -> str:
        rate = self._rate(self._tally.samples - self._before)
        facts = [f"{self._tally.units} units", f"{rate:.1f} images/s"]
        if self._expected and rate > 0:
            facts.append(f"ETA {duration(max(0, self._expected - self._tally.samples) / rate)}")
        facts.append(f"{self._tally.quarantined} quarantined")
        if self._bar is None:
            total = f" of {self._expected}" if self._expected else ""
            facts.insert(0, f"{self._tally.samples}{total} samples")
        return ", ".join(facts)


class StageProgress(ProgressLine):
    """Counts the parts of a stage, and the samples in them."""

    def __init__(self, console: Console, what: str, parts: int) -> None:
        """Make the line of a stage.

        Args:
            console: where to show; not a terminal means log lines.
            what: name of what is going on.
            parts: how many parts are left to do.
        """
        super().__init__(console, what, parts, 0, "")
        self._parts = parts
        self._done = self._samples = 0

    def part(self, samples: int) -> None:
        """Count a part that is done, and its samples."""
        self._done += 1
        self._samples += samples
        self._show(self._done)

    def _facts(self) -> str:
        facts = f"{self._samples:,} samples, {self._rate(self._samples):.1f} a second"
        return facts if self._bar is not None else f"{self._what}: {self._done} of {self._parts} parts, {facts}"
