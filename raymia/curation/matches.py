"""The rows of a list that name a work: all are counted, and the nearest of each work and way are kept."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import pyarrow as pa

from raymia.curation.sought import Sought
from raymia.curation.ways import WAYS

MAX_KEPT = 1000
"""Rows that are written for a work and a way; all are counted."""
MATCHES_SCHEMA = pa.schema(
    [
        ("work", pa.string()),
        ("source", pa.string()),
        ("control", pa.bool_()),
        ("way", pa.string()),
        ("table", pa.string()),
        ("row", pa.int64()),
        ("url", pa.string()),
        ("caption", pa.string()),
        ("distance", pa.float64()),
    ]
)
"""Columns of the table of matches: a row for each work, way and row of a list."""


@dataclass(frozen=True)
class Match:
    """A row that names a work; the order is that in which they are written and, at last, left out."""

    distance: float
    table: str
    row: int
    url: str | None
    caption: str | None


@dataclass
class Found:
    """What was found so far.

    Attributes:
        matches: by work and way, no more than twice those that are kept.
        counts: of all, by work and way.
        rows: seen, by table.
        left_out: matches that are counted and not kept.
    """

    matches: dict[tuple[int, str], list[Match]] = field(default_factory=lambda: defaultdict(list))
    counts: Counter[tuple[int, str]] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)

    @property
    def left_out(self) -> int:
        return sum(max(0, count - MAX_KEPT) for count in self.counts.values())

    def add(self, work: int, way: str, match: Match) -> None:
        """Note a match; which are kept does not depend on the order in which they come."""
        self.counts[work, way] += 1
        kept = self.matches[work, way]
        kept.append(match)
        if len(kept) >= 2 * MAX_KEPT:
            self.matches[work, way] = _first(kept)

    def table(self, sought: Sought) -> pa.Table:
        """The matches, works in their order and ways in that of `WAYS`."""
        rows = [
            {
                "work": sought.keys[work],
                "source": sought.sources[work],
                "control": sought.control[work],
                "way": way,
                "table": match.table,
                "row": match.row,
                "url": match.url,
                "caption": match.caption,
                "distance": match.distance if way in ("phash", "embedding") else None,
            }
            for work, way in sorted(self.matches, key=lambda pair: (pair[0], WAYS.index(pair[1])))
            for match in _first(self.matches[work, way])
        ]
        return pa.Table.from_pylist(rows, MATCHES_SCHEMA)


def _first(matches: list[Match]) -> list[Match]:
    return sorted(matches, key=lambda match: (match.distance, match.table, match.row))[:MAX_KEPT]
