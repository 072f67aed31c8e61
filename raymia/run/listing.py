"""Which files of samples a run directory holds, each held against what was written, as far as names, records and sizes tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TypeVar

from pydantic import ValidationError

from raymia.errors import describe_validation
from raymia.run.files import (
    QUARANTINE,
    RECORD_ENDING,
    SCORES,
    SHARDS,
    UNIT_ENDING,
    DamagedRunError,
    FileRecord,
    ShardPlace,
    ShardRecord,
    place_of_record,
    record_name,
    unit_name,
    unit_of,
)
from raymia.run.record import RunRecord
from raymia.run.storage import Storage

T = TypeVar("T")


class Listing:
    """The files of samples in a run directory, by what they are.

    Attributes:
        finished: records of the finished shards.
        written: files of the finished shards, as they were written.
        committed: numbers of the committed units of the other shards.
        open_quarantine: quarantine files of those units.
        leftover: files of units whose shard is finished.
        strays: files of whole shards that are not finished.
    """

    def __init__(self, storage: Storage) -> None:
        """List a run directory.

        Raises:
            DamagedRunError: a file is not one that raymia wrote, or not as it was written; names it and says what to do.
            FileNotFoundError: a scan that runs has put files together meanwhile; list again.
        """
        self._storage = storage
        self.finished = finished_shards(storage)
        self.written: dict[str, FileRecord] = {}
        for record in self.finished.values():
            self.written |= record.written()
        self.committed: dict[ShardPlace, set[int]] = defaultdict(set)
        self.open_quarantine: list[str] = []
        self.leftover: list[str] = []
        self.strays: list[str] = []
        sizes = {**storage.sizes(SCORES, UNIT_ENDING), **storage.sizes(QUARANTINE, UNIT_ENDING)}
        quarantined = [name for name, size in sizes.items() if self._sort(name, size)]
        # A unit is committed by its scores; its quarantine comes before them.
        for name in quarantined:
            place, unit = unit_of(name)
            if unit in self.committed.get(place, ()):
                self.open_quarantine.append(name)
        for record in self.finished.values():
            for name in record.written():
                if name not in sizes:
                    raise damaged(storage, name, "is gone", record.place)
        if any(storage.read(record_name(unit_of(name)[0])) is not None for name in self.strays):
            raise FileNotFoundError("a shard was finished between two listings")

    def _sort(self, name: str, size: int | None) -> bool:
        """Put a file where it belongs; whether it is the quarantine of a unit whose shard is not finished."""
        place, unit = named(self._storage, unit_of, name)
        if name in self.written:
            announced = self.written[name].size
            if size is not None and announced is not None and size != announced:
                raise damaged(self._storage, name, f"{size} bytes, {announced} were written", place)
        elif unit is None:
            self.strays.append(name)
        elif place in self.finished:
            self.leftover.append(name)
        elif name.startswith(f"{SCORES}/"):
            self.committed[place].add(unit)
        else:
            return True
        return False

    @property
    def names(self) -> list[str]:
        """Files of scores that count, in a fixed order."""
        units = [unit_name(SCORES, place, unit) for place, numbers in self.committed.items() for unit in numbers]
        return sorted([*units, *(name for name in self.written if name.startswith(f"{SCORES}/"))])

    @property
    def quarantine(self) -> list[str]:
        """Files of quarantined samples that count, in a fixed order."""
        return [*(name for name in self.written if name.startswith(f"{QUARANTINE}/")), *self.open_quarantine]

    def check(self, record: RunRecord) -> None:
        """Hold the files of a finished run against the shards that it has: none removed, none added.

        Raises:
            DamagedRunError: names the file and what to do.
        """
        for name in (*self.strays, *self.leftover):
            raise DamagedRunError(f"{self._storage.url}/{name}: was added after the scan; move it out of the run directory")
        declared = {(shard.split, shard.name) for shard in record.shards}
        there = {*self.finished, *self.committed}
        for place in sorted(there - declared) if declared else ():
            units = self.committed.get(place)
            name = unit_name(SCORES, place, min(units)) if units else record_name(place)
            raise DamagedRunError(
                f"{self._storage.url}/{name}: of a shard that the run does not have; move it out of the run directory"
            )
        for place in sorted(declared - there):
            raise damaged(self._storage, record_name(place), "is gone", place)


def finished_shards(storage: Storage) -> dict[ShardPlace, ShardRecord]:
    """Records of finished shards by (split, shard).

    Raises:
        DamagedRunError: a record cannot be read, or stands under another's name; names its file.
    """
    names = storage.names(SHARDS, RECORD_ENDING)
    records = {}
    for name, content in zip(names, storage.read_many(names), strict=True):
        place = named(storage, place_of_record, name)
        try:
            record = ShardRecord.model_validate_json(content)
        except ValidationError as error:
            problem = f"{storage.url}/{name}: {describe_validation(error, ShardRecord)}"
            raise DamagedRunError(f"{problem}; delete it, and the scan does this shard again") from error
        if record.place != place:
            raise damaged(storage, name, f"is the record of {'/'.join(record.place)}", place)
        records[place] = record
    return records


def named(storage: Storage, meaning: Callable[[str], T], name: str) -> T:
    """What a file's name means.

    Raises:
        DamagedRunError: it is no name that raymia gives; says in which run directory.
    """
    try:
        return meaning(name)
    except DamagedRunError as error:
        raise DamagedRunError(f"{storage.url}/{error}") from error


def damaged(storage: Storage, name: str, problem: str, place: ShardPlace) -> DamagedRunError:
    """The error for a file of a finished shard that is not as it was written."""
    return DamagedRunError(
        f"{storage.url}/{name}: {problem}; the run directory was changed from outside: put the file back, or delete "
        f"{record_name(place)} and run the scan again, which does this shard anew"
    )
