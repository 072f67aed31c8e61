"""What a scan tells about itself: counters for Prometheus, a sign of life in the run directory, and where time went."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Protocol

from pydantic import BaseModel

from raymia.scan.ledger import Ledger, LedgerState
from raymia.scan.storage import StorageError

log = logging.getLogger(__name__)

PROGRESS_FILE = "progress.json"
INTERVAL_S = 10.0
BUSY = 0.8
"""A stage that was busy for this share of the time is what the scan waited for."""
STAGES = ("read", "decode", "transfer", "model", "commit")


class Progress(BaseModel):
    """Contents of progress.json: a scan's last sign of life."""

    time: str
    """UTC, by the driver's clock."""
    samples: int
    """Scored and quarantined so far, by earlier attempts too."""
    expected: int | None
    units: int
    by_reason: dict[str, int]
    images_per_s: float
    """Since the first batch of this attempt came back."""
    seconds: float
    """Since this attempt began."""
    stages: dict[str, float]
    """Seconds spent in each stage, over all processes."""


class MetricCounter(Protocol):
    """What is asked of a counter of a metrics library, such as `ray.util.metrics.Counter`."""

    def inc(self, value: float, tags: dict[str, str]) -> None:
        """Add to the counter."""
        ...


MakeCounter = Callable[[str, str, tuple[str, ...]], MetricCounter]
"""Name, description and names of tags to a counter."""


class Monitor:
    """Counts what comes back to the driver.

    Attributes:
        stages: seconds in each stage.
        evaluations: model evaluations.
    """

    def __init__(self, ledger: Ledger, state: LedgerState, expected: int | None, make_counter: MakeCounter) -> None:
        """Args:
        ledger: where the sign of life is written.
        state: what earlier attempts have left.
        expected: samples in all.
        make_counter: of the metrics library.
        """
        self._ledger = ledger
        self._expected = expected
        self._before = state.samples
        self._done = 0
        self._units = state.units
        self._by_reason = Counter(state.by_reason)
        self._start = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._written = self._start
        self.stages = dict.fromkeys(STAGES, 0.0)
        self.evaluations: Counter[str] = Counter()
        run = ("run",)
        self._tags = {"run": ledger.run}
        self._images = make_counter("raymia_images_total", "Images that came back, scored or quarantined.", run)
        self._units_total = make_counter("raymia_units_total", "Units committed.", run)
        self._quarantined = make_counter("raymia_quarantined_total", "Images quarantined.", (*run, "reason"))
        self._evaluated = make_counter("raymia_evaluations_total", "Model evaluations, in images.", (*run, "kind"))
        self._seconds = make_counter("raymia_stage_seconds_total", "Seconds spent, over all processes.", (*run, "stage"))

    def batch(
        self, scored: int, reasons: Mapping[str, int], evaluations: Mapping[str, int], spent: Mapping[str, float]
    ) -> None:
        """A batch came back."""
        count = scored + sum(reasons.values())
        self._done += count
        if self._first is None and count:
            self._first = (time.monotonic(), self._done)
        if count:
            self._images.inc(count, self._tags)
        for reason, number in reasons.items():
            self._by_reason[reason] += number
            self._quarantined.inc(number, {**self._tags, "reason": reason})
        for kind, number in evaluations.items():
            self.evaluations[kind] += number
            if number:
                self._evaluated.inc(number, {**self._tags, "kind": kind})
        self.spent(spent)
        self._sign_of_life()

    def unit(self) -> None:
        """A unit was committed."""
        self._units += 1
        self._units_total.inc(1, self._tags)

    def spent(self, seconds: Mapping[str, float]) -> None:
        """Time went into stages."""
        for stage, value in seconds.items():
            if value > 0:
                self.stages[stage] += value
                self._seconds.inc(value, {**self._tags, "stage": stage})

    def progress(self) -> Progress:
        """How far the scan is."""
        now = time.monotonic()
        since, done = self._first or (now, self._done)
        rate = (self._done - done) / (now - since) if now > since else 0.0
        return Progress(
            time=now_text(),
            samples=self._before + self._done,
            expected=self._expected,
            units=self._units,
            by_reason=dict(self._by_reason.most_common()),
            images_per_s=round(rate, 2),
            seconds=round(now - self._start, 1),
            stages={stage: round(value, 3) for stage, value in self.stages.items()},
        )

    def _sign_of_life(self) -> None:
        now = time.monotonic()
        if now - self._written < INTERVAL_S:
            return
        self._written = now
        try:
            self._ledger.write_text(PROGRESS_FILE, self.progress().model_dump_json(indent=2) + "\n")
        except StorageError as error:
            log.warning("no sign of life written: %s", error)


def now_text() -> str:
    """The time, in UTC, to the second."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds")


def bottleneck(stages: Mapping[str, float], seconds: float, replicas: int) -> tuple[str, str]:
    """The stage that a scan waited for, and why.

    Args:
        stages: seconds in each stage, over all processes.
        seconds: from the first batch to the last.
        replicas: that the model stage had.
    """
    model = (stages["model"] + stages["transfer"]) / max(seconds * replicas, 1e-9)
    commit = stages["commit"] / max(seconds, 1e-9)
    busy = f"replicas busy {min(model, 1.0):.0%} of the time, the driver's commits {min(commit, 1.0):.0%}"
    if model >= BUSY:
        name = "transfer" if stages["transfer"] > stages["model"] else "model"
    elif commit >= BUSY:
        name = "commit"
    else:
        name = "read" if stages["read"] > stages["decode"] else "decode"
    return name, busy
