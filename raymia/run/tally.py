"""Counts of what a run has done, kept in one way for the ledger, the progress line and the monitor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Samples and units so far.

    Attributes:
        scored: scored samples.
        by_reason: quarantined samples and, under their own reasons, shards that were not read to their end.
        flagged: scored samples by remark.
        units: committed units.
        cut_shards: shards that were not read to their end.
    """

    scored: int = 0
    by_reason: Counter[str] = field(default_factory=Counter)
    flagged: Counter[str] = field(default_factory=Counter)
    units: int = 0
    cut_shards: int = 0

    @property
    def quarantined(self) -> int:
        """The number of quarantined samples and of shards that were not read to their end."""
        return self.by_reason.total()

    @property
    def samples(self) -> int:
        """The number of samples, scored and quarantined."""
        return self.scored + self.quarantined - self.cut_shards

    def flag(self, flags: Iterable[str | None]) -> None:
        """Count the remarks of scored samples, each a list with commas."""
        self.flagged.update(name for flag in flags if flag for name in flag.split(","))
