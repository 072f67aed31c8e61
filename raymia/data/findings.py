"""What was found of works before any model was asked, in short: what a public list names, and what they say of themselves.

Small records that stand in a report, and that are written and read as JSON.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A record that does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Hit(Record):
    """A row of a list that names a work."""

    work: str
    """The name by which the owner knows it."""
    way: str
    """See `raymia.curation.ways.WAYS`."""
    table: str
    row: int
    """From 0."""
    url: str | None
    """As the list has it."""
    caption: str | None
    similarity: float | None
    """Of `phash` the share of bits that are equal, of `embedding` the cosine; none for other ways, by which all is equal."""


class WayFound(Record):
    """What was found in one way."""

    way: str
    sure: bool
    """Whether a row that is found so names the work itself, and not one that is like it."""
    looked_for: int
    works: int
    rows: int
    controls_looked_for: int
    controls: int
    by_chance: float | None
    """Pairs of a work and a row that chance would find; see `raymia.curation.perceptual.expected_by_chance`."""


class LookupFinding(Record):
    """What public training lists name of works."""

    tables: int
    rows: int
    """Of all tables."""
    works: int
    found: int
    """Works that some row names, in whatever way."""
    found_for_sure: int
    """Works that some row names by address or digest."""
    controls: int
    controls_found: int
    controls_for_sure: int
    """Of the control, some row names by address or digest."""
    ways: tuple[WayFound, ...]
    not_looked_for: dict[str, dict[str, int]]
    """Works that could not be looked for, by what that takes and by reason."""
    hits: tuple[Hit, ...]
    """Rows that name works, the surest of each work first, and no more than are shown."""
    hits_in_all: int
    """Pairs of a work and a row, by all ways."""


class Contradiction(Record):
    """What speaks against what a work says."""

    work: str
    says: str


class ClaimsFinding(Record):
    """What works, and a model's provider, say of dates and rights."""

    works: int
    dated: int
    """Works of which it is said when they were published."""
    earliest: str | None
    """The date of the first of them, as exactly as it is known."""
    latest: str | None
    reserved: dict[str, int]
    """Works by whether rights were reserved: `yes`, `no`, `unknown`."""
    model: str | None
    cut_off: str | None
    sides: dict[str, int]
    """Works by their side of the cut-off; empty without one."""
    non_members: tuple[str, ...]
    """Works that were first published after the cut-off, and no more than are shown; `sides` counts them all."""
    contradictions: dict[str, int]
    """By kind."""
    contradicted: tuple[Contradiction, ...]
    """No more than are shown."""
    contradictions_in_all: int
    of_provider: tuple[str, ...]
    """Contradictions in what the provider says."""
    faults: dict[str, int]
    """What could not be read or understood, by what."""
    credentials: dict[str, int]
    """Works with Content Credentials, by the state of their signature, or `not read`."""
