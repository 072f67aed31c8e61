"""The files of a run directory that hold samples: their names, what a finished shard says of its own, and what a name means."""

from __future__ import annotations

import hashlib
import re

from pydantic import BaseModel, NonNegativeInt

from raymia.errors import RaymiaError

UNIT_ENDING, SHARD_ENDING = ".parquet", ".shard.parquet"
"""Endings of the file of one unit, and of the file of a finished shard; the first is also an ending of the second."""
RECORD_ENDING = ".json"
"""Ending of the record of a finished shard."""
SCORES, QUARANTINE, SHARDS = "scores", "quarantine", "shards"
"""Folders of a run directory: of scored samples, of those that could not be scored, and of the records of finished shards."""
EXHIBITS = "exhibits"
"""Folder of a run directory: what attacks show beside their scores."""
ANSWERS = "answers"
"""Folder of a run directory: what a hosted service answered."""
UNIT = re.compile(r"(.+)-(\d{6,})")
ShardPlace = tuple[str, str]
"""The split and the name of a shard."""


class DamagedRunError(RaymiaError):
    """Files of a run directory are not those that were written; names one of them."""


class FileRecord(BaseModel):
    """A file of a finished shard as it was written."""

    rows: NonNegativeInt
    size: NonNegativeInt | None = None
    """In bytes."""
    sha256: str | None = None

    @classmethod
    def of(cls, rows: int, content: bytes) -> FileRecord:
        """The record of a file with so many rows."""
        return cls(rows=rows, size=len(content), sha256=hashlib.sha256(content).hexdigest())

    def difference(self, content: bytes) -> str | None:
        """In what a file is not the one that was written; none where it is, or where that is not known."""
        if self.size is not None and self.size != len(content):
            return f"{len(content)} bytes, {self.size} were written"
        if self.sha256 is not None and self.sha256 != hashlib.sha256(content).hexdigest():
            return "other contents than were written"
        return None


class ShardRecord(BaseModel):
    """A finished shard: how reading it ended, and what became of its samples."""

    split: str
    shard: str
    samples: NonNegativeInt
    bytes_reached: NonNegativeInt
    reason: str | None
    detail: str | None
    units: NonNegativeInt
    scored: NonNegativeInt
    by_reason: dict[str, NonNegativeInt]
    """Quarantined samples by reason; a shard that was not read to its end counts as one more, under its own reason."""
    flagged: dict[str, NonNegativeInt]
    """Scored samples by remark."""
    skipped: NonNegativeInt = 0
    """Files of the shard that no one meant to be there; see `raymia.data.droppings`."""
    files: dict[str, FileRecord] | None = None
    """The shard's files by their names, as they were written; none in runs of earlier versions."""

    @property
    def place(self) -> ShardPlace:
        """Split and shard."""
        return self.split, self.shard

    def written(self) -> dict[str, FileRecord]:
        """The shard's files by their names, with what is known of them."""
        if self.files is not None:
            return self.files
        found = {shard_name(SCORES, self.place): FileRecord(rows=self.scored)} if self.units else {}
        if self.by_reason:
            found[shard_name(QUARANTINE, self.place)] = FileRecord(rows=sum(self.by_reason.values()))
        return found


def record_name(place: ShardPlace) -> str:
    """The file of a finished shard's record."""
    return f"{SHARDS}/{place[0]}/{place[1]}{RECORD_ENDING}"


def shard_name(folder: str, place: ShardPlace) -> str:
    """The file of a finished shard's samples."""
    return f"{folder}/{place[0]}/{place[1]}{SHARD_ENDING}"


def unit_name(folder: str, place: ShardPlace, unit: int) -> str:
    """The file of a unit's samples."""
    return f"{folder}/{place[0]}/{place[1]}-{unit:06d}{UNIT_ENDING}"


def unit_of(name: str) -> tuple[ShardPlace, int | None]:
    """Split and shard of a file of samples, and the number of its unit; no number for the file of a whole shard.

    Raises:
        DamagedRunError: it has no name that raymia gives.
    """
    parts = name.split("/")
    if len(parts) == 3:
        _, split, base = parts
        if base.endswith(SHARD_ENDING) and base != SHARD_ENDING:
            return (split, base.removesuffix(SHARD_ENDING)), None
        found = UNIT.fullmatch(base.removesuffix(UNIT_ENDING))
        if found is not None:
            return (split, found[1]), int(found[2])
    raise DamagedRunError(f"{name}: no file that raymia wrote; move it out of the run directory")


def place_of_record(name: str) -> ShardPlace:
    """Split and shard that a record's name says.

    Raises:
        DamagedRunError: it has no name that raymia gives.
    """
    parts = name.split("/")
    if len(parts) != 3:
        raise DamagedRunError(f"{name}: no file that raymia wrote; move it out of the run directory")
    return parts[1], parts[2].removesuffix(RECORD_ENDING)
