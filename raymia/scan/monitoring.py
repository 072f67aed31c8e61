"""What a scan tells about itself: counters for Prometheus, a sign of life in the run directory, and where time went."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from raymia.run.ledger import Ledger
from raymia.run.record import PROGRESS_FILE, Bottleneck, Evaluations, Progress, now_text
from raymia.run.storage import StorageError
from raymia.run.tally import Tally

log = logging.getLogger(__name__)

INTERVAL_S = 10.0
BUSY = 0.8
"""A stage that was busy for this share of the time is what the scan waited for."""
STAGES = ("read", "decode", "transfer", "model", "commit")


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
        tally: samples and units of all attempts so far; the progress line shows it.
        stages: seconds in each stage, of this attempt.
        evaluations: of the model, in this attempt.
    """

    def __init__(
        self,
        ledger: Ledger,
        tally: Tally,
        expected: int | None,
        make_counter: MakeCounter,
        shown: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin to count.

        Args:
            ledger: where the sign of life is written.
            tally: what earlier attempts have left; it is counted on.
            expected: samples in all.
            make_counter: of the metrics library.
            shown: is called when the tally has changed.
        """
        self._ledger = ledger
        self._expected = expected
        self._shown = shown
        self.tally = tally
        self._start = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._written = self._start
        self.stages = dict.fromkeys(STAGES, 0.0)
        self.evaluations = Evaluations()
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
        self.tally.scored += scored
        count = scored + sum(reasons.values())
        if count:
            self._images.inc(count, self._tags)
        self._quarantine(reasons)
        if self._first is None and count:
            self._first = (time.monotonic(), self.tally.samples)
        self._spent_on_model(evaluations, spent)

    def shard_end(self, reason: str | None, evaluations: Mapping[str, int], spent: Mapping[str, float]) -> None:
        """A shard was read to its end, or as far as it can be, for a reason."""
        if reason is not None:
            self.tally.cut_shards += 1
            self._quarantine({reason: 1})
        self._spent_on_model(evaluations, spent)

    def unit(self) -> None:
        """A unit was committed."""
        self.tally.units += 1
        self._units_total.inc(1, self._tags)
        self._shown()

    def spent(self, seconds: Mapping[str, float]) -> None:
        """Time went into stages."""
        for stage, value in seconds.items():
            if value > 0:
                self.stages[stage] += value
                self._seconds.inc(value, {**self._tags, "stage": stage})

    def progress(self) -> Progress:
        """How far the scan is."""
        now = time.monotonic()
        since, done = self._first or (now, self.tally.samples)
        rate = (self.tally.samples - done) / (now - since) if now > since else 0.0
        return Progress(
            time=now_text(),
            samples=self.tally.samples,
            expected=self._expected,
            units=self.tally.units,
            by_reason=dict(self.tally.by_reason.most_common()),
            images_per_s=round(rate, 2),
            seconds=round(now - self._start, 1),
            stages={stage: round(value, 3) for stage, value in self.stages.items()},
        )

    def _quarantine(self, reasons: Mapping[str, int]) -> None:
        for reason, number in reasons.items():
            self.tally.by_reason[reason] += number
            self._quarantined.inc(number, {**self._tags, "reason": reason})

    def _spent_on_model(self, evaluations: Mapping[str, int], spent: Mapping[str, float]) -> None:
        if evaluations:
            self.evaluations = self.evaluations + Evaluations(**evaluations)
        for kind, number in evaluations.items():
            if number:
                self._evaluated.inc(number, {**self._tags, "kind": kind})
        self.spent(spent)
        self._shown()
        self._sign_of_life()

    def _sign_of_life(self) -> None:
        now = time.monotonic()
        if now - self._written < INTERVAL_S:
            return
        self._written = now
        try:
            self._ledger.write_text(PROGRESS_FILE, self.progress().model_dump_json(indent=2) + "\n")
        except StorageError as error:
            log.warning("no sign of life written: %s", error)


def bottleneck(stages: Mapping[str, float], seconds: float, replicas: int) -> Bottleneck:
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
    return Bottleneck(stage=name, why=busy)
