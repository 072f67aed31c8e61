"""The record of a scan on disk or object store: committed units, finished shards, and what the run is.

A unit is committed when its file below ``scores/`` exists: it appears whole, by rename or single put, and after its
quarantine. A shard is finished when its file below ``shards/`` exists; it holds how many samples were read. From then on
the shard's units stand together in one file, so that a run has few files however many units it has.
"""

from __future__ import annotations

import io
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from raymia.data.tar import RETRIED, ShardEnd
from raymia.errors import ConfigError, RaymiaError, describe_validation, first_line
from raymia.run.columns import QUARANTINE_SCHEMA
from raymia.run.record import CONTROL, RUN_FILE, Counts, RunRecord, ScanRecord, parse_record
from raymia.run.storage import Storage, StorageError
from raymia.run.tally import Tally

CLUSTERS_FILE = "clusters.parquet"
RETRIED_FAULTS = RETRIED
"""Faults of a shard after which the next run tries the whole shard again: the file or the connection may be back."""
FILES_AT_ONCE = 256
"""Files that are read together; this bounds memory."""
READ_AGAIN = 5
"""How often a reading that a running scan has disturbed is begun again."""
QUARANTINED_COUNT = "quarantined"
"""Metadata of a unit's scores file that says how many of its samples stand in a quarantine file."""
UNIT_ENDING, SHARD_ENDING = ".parquet", ".shard.parquet"
"""Endings of the file of one unit, and of the file of a finished shard; the first is also an ending of the second."""
T = TypeVar("T")
ShardPlace = tuple[str, str]
"""The split and the name of a shard."""


class ShardRecord(BaseModel):
    """A finished shard: how reading it ended, and what became of its samples."""

    split: str
    shard: str
    samples: int
    bytes_reached: int
    reason: str | None
    detail: str | None
    units: int
    scored: int
    by_reason: dict[str, int]
    """Quarantined samples by reason; a shard that was not read to its end counts as one more, under its own reason."""
    flagged: dict[str, int]
    """Scored samples by remark."""
    skipped: int = 0
    """Files of the shard that no one meant to be there; see `raymia.data.droppings`."""


@dataclass(frozen=True)
class LedgerState:
    """What a run directory holds at one moment, by one listing."""

    finished: dict[ShardPlace, ShardRecord]
    """Records of the finished shards."""
    committed: dict[ShardPlace, frozenset[int]]
    """Numbers of the committed units of each shard that is not finished."""
    tally: Tally
    """Counts of all that is committed."""


class Ledger:
    """A run directory at a local path or any fsspec URL."""

    def __init__(self, run: str) -> None:
        """Point at a run directory, which need not exist yet.

        Args:
            run: local path or fsspec URL.

        Raises:
            ValueError, ImportError: the URL's file system is unknown or not installed.
        """
        self._url = run
        self.storage = Storage(run)
        self.run = self.storage.url
        """Path or URL of the directory, without credentials."""

    def control(self) -> Ledger:
        """The run directory of the control model within this one; it may not exist."""
        return Ledger(f"{self._url}/{CONTROL}")

    def require_writable(self) -> None:
        """Make the directory and try a write.

        Raises:
            ConfigError: it cannot be written.
        """
        try:
            self.storage.try_write()
        except (OSError, ValueError, ImportError, StorageError) as error:
            raise ConfigError(
                f"run {self.run}: cannot be written ({error}); choose another run directory with --run"
            ) from error

    def read_run(self) -> RunRecord | None:
        """Contents of run.json; none for a new run.

        Raises:
            RaymiaError: the file exists but cannot be read; names the field.
        """
        text = self.read_text(RUN_FILE)
        if text is None:
            return None
        try:
            content = json.loads(text)
            return parse_record(content if isinstance(content, dict) else {})
        except ValidationError as error:
            reason = f"{describe_validation(error, ScanRecord)}; the run directory is damaged"
        except (ValueError, RecursionError) as error:
            reason = first_line(error)
        raise RaymiaError(f"{self.run}/{RUN_FILE}: cannot be read: {reason}")

    def require_run(self) -> RunRecord:
        """Contents of run.json.

        Raises:
            ConfigError: there is no run.
            RaymiaError: see `read_run`.
        """
        record = self.read_run()
        if record is None:
            raise ConfigError(f"{self.run}: no {RUN_FILE}; give a run directory made by `raymia scan`")
        return record

    def require_scan(self) -> ScanRecord:
        """Contents of the run.json of a scan.

        Raises:
            ConfigError: there is no run, or it is not the run of a scan.
            RaymiaError: see `read_run`.
        """
        record = self.require_run()
        if not isinstance(record, ScanRecord):
            raise ConfigError(f"{self.run}: features of `raymia data embed`; give a run directory made by `raymia scan`")
        return record

    def read_text(self, name: str) -> str | None:
        """A text file of the run directory; none where there is no such file."""
        content = self.storage.read(name)
        return None if content is None else content.decode("utf-8", "replace")

    def write_run(self, record: RunRecord) -> None:
        """Replace run.json."""
        content = record.model_dump(mode="json")
        self.write_text(RUN_FILE, json.dumps(content, indent=2, sort_keys=True) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the run directory, whole or not at all."""
        self.storage.write(name, text.encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file of the run directory, whole or not at all."""
        self.storage.write(name, content)

    def write_clusters(self, clusters: pa.Table) -> None:
        """Keep the near-duplicate clusters of the manifest, so that evaluation needs the run directory alone."""
        self.storage.write_table(CLUSTERS_FILE, clusters)

    def clusters(self) -> pa.Table | None:
        """Columns split, key, cluster of `raymia.data.clusters`; none where the manifest names none."""
        content = self.storage.read(CLUSTERS_FILE)
        return None if content is None else self._parse(CLUSTERS_FILE, content)

    def commit_unit(self, split: str, shard: str, unit: int, scores: pa.Table, quarantine: pa.Table) -> None:
        """Commit a unit: its quarantine first, then the scores whose existence is the commit.

        Args:
            split: split of the shard.
            shard: name of the shard.
            unit: number of the unit in the shard, from 0.
            scores: one row per scored sample.
            quarantine: one row per sample that could not be scored, by `QUARANTINE_SCHEMA`.

        Raises:
            StorageError: a file cannot be written.
        """
        place = (split, shard)
        if len(quarantine):
            self.storage.write_table(_unit_name("quarantine", place, unit), quarantine)
        marked = scores.replace_schema_metadata({QUARANTINED_COUNT: str(len(quarantine))})
        self.storage.write_table(_unit_name("scores", place, unit), marked)

    def finish_shard(self, split: str, shard: str, end: ShardEnd, units: int) -> None:
        """Put the units of a shard together, and record that it was read to its end or as far as it can be read.

        Readers take the units until the record is there, and the files put together from then on, so that no moment
        shows anything twice or not at all.

        Args:
            split: split of the shard.
            shard: name of the shard.
            end: how reading the shard ended.
            units: how many units the shard has, all of them committed.

        Raises:
            StorageError: a file cannot be read or written.
        """
        place = (split, shard)
        names = [_unit_name("scores", place, unit) for unit in range(units)]
        scores = list(self._tables(names))
        marks = [(table.schema.metadata or {}).get(QUARANTINED_COUNT.encode(), b"0") for table in scores]
        bad = [_unit_name("quarantine", place, unit) for unit, mark in enumerate(marks) if mark != b"0"]
        quarantine = list(self._tables(bad))
        if end.fault is not None:
            row = {"split": split, "shard": shard, "stage": "shard", "reason": end.fault.reason}
            row["detail"] = f"{end.fault.detail} ({end.bytes_reached} bytes reached)"
            quarantine.append(pa.Table.from_pylist([row], schema=QUARANTINE_SCHEMA))
        tally = Tally()
        for table in scores:
            tally.flag(table.column("flags").to_pylist())
        reasons = [reason for table in quarantine for reason in table.column("reason").to_pylist()]
        record = ShardRecord(
            split=split,
            shard=shard,
            samples=end.samples,
            bytes_reached=end.bytes_reached,
            reason=end.fault.reason if end.fault else None,
            detail=end.fault.detail if end.fault else None,
            units=units,
            scored=sum(map(len, scores)),
            by_reason=dict(Counter(reasons)),
            flagged=dict(tally.flagged),
            skipped=end.skipped,
        )
        if quarantine:
            self.storage.write_table(f"quarantine/{split}/{shard}{SHARD_ENDING}", pa.concat_tables(quarantine))
        if scores:
            together = pa.concat_tables(scores).replace_schema_metadata(None)
            self.storage.write_table(f"scores/{split}/{shard}{SHARD_ENDING}", together)
        self.write_text(_record_name(split, shard), record.model_dump_json() + "\n")
        self.storage.remove([*names, *bad])

    def forget_shard(self, split: str, shard: str) -> None:
        """Take back a finished shard that is to be tried again: its record first, so that no moment shows half of it."""
        ending = f"{split}/{shard}{SHARD_ENDING}"
        self.storage.remove([_record_name(split, shard), f"scores/{ending}", f"quarantine/{ending}"])

    def state(self) -> LedgerState:
        """What is committed, by one listing; units that a finished shard has left behind are removed.

        Only the scan that holds the run's lock may ask; others `peek`.
        """
        state, leftover = self._state()
        self.storage.remove(leftover)
        return state

    def peek(self) -> LedgerState:
        """What is committed, by one listing, changing nothing."""
        return _as_of_one_moment(self._state)[0]

    def _state(self) -> tuple[LedgerState, list[str]]:
        """What is committed, and the files of units that a finished shard has left behind."""
        finished = self.finished()
        committed: dict[ShardPlace, set[int]] = defaultdict(set)
        leftover = []
        for name in self.storage.names("scores", UNIT_ENDING):
            place, unit = _unit_of(name)
            if unit is None:
                continue
            if place in finished:
                leftover.append(name)
            else:
                committed[place].add(unit)
        tally = Tally()
        for record in finished.values():
            tally.scored += record.scored
            tally.by_reason.update(record.by_reason)
            tally.flagged.update(record.flagged)
            tally.units += record.units
            tally.cut_shards += record.reason is not None
        open_names = [_unit_name("scores", place, unit) for place, units in committed.items() for unit in units]
        for table in self._tables(open_names, ["flags"]):
            tally.scored += len(table)
            tally.flag(table.column("flags").to_pylist())
        for table in self._tables(self._open_quarantine(committed), ["reason"]):
            tally.by_reason.update(table.column("reason").to_pylist())
        tally.units += len(open_names)
        frozen = {place: frozenset(units) for place, units in committed.items()}
        return LedgerState(finished, frozen, tally), leftover

    def finished(self) -> dict[ShardPlace, ShardRecord]:
        """Records of finished shards by (split, shard).

        Raises:
            RaymiaError: a record cannot be read; names its file.
        """
        names = self.storage.names("shards", ".json")
        records = {}
        for name, content in zip(names, self.storage.read_many(names), strict=True):
            try:
                record = ShardRecord.model_validate_json(content)
            except ValidationError as error:
                problem = f"{self.run}/{name}: {describe_validation(error, ShardRecord)}"
                raise RaymiaError(f"{problem}; delete it, and the scan does this shard again") from error
            records[record.split, record.shard] = record
        return records

    def scores(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of all committed units, in a fixed order.

        Args:
            columns: names of the columns to read; by default all.

        Raises:
            RaymiaError: nothing is committed.
        """
        return _as_of_one_moment(lambda: self._scores(columns))

    def frame(self) -> pd.DataFrame:
        """Rows of all committed units; embeddings stay in Arrow, as Python lists they would take ten times their size.

        Raises:
            RaymiaError: nothing is committed.
        """
        rows: pd.DataFrame = self.scores().to_pandas(
            types_mapper=lambda kind: pd.ArrowDtype(kind) if pa.types.is_list(kind) else None
        )
        return rows

    def _scores(self, columns: Sequence[str] | None) -> pa.Table:
        finished = self.finished()
        names = [name for name in self.storage.names("scores", UNIT_ENDING) if _is_current(name, finished)]
        tables = list(self._tables(names, columns))
        if not tables:
            raise RaymiaError(f"{self.run}: no committed unit; run the scan first")
        return pa.concat_tables(tables, promote_options="default")

    def quarantine(self) -> pa.Table:
        """Quarantined samples of committed units, and shards that could not be read to their end."""
        return _as_of_one_moment(self._quarantine)

    def _quarantine(self) -> pa.Table:
        state, _ = self._state()
        names = [
            f"quarantine/{split}/{shard}{SHARD_ENDING}" for (split, shard), record in state.finished.items() if record.by_reason
        ]
        tables = list(self._tables([*names, *self._open_quarantine(state.committed)]))
        return pa.concat_tables(tables) if tables else QUARANTINE_SCHEMA.empty_table()

    def counts(self, expected: int | None) -> Counts:
        """Count the samples of committed units and finished shards.

        Args:
            expected: samples that the manifest announces; none where it does not.

        Raises:
            RaymiaError: samples are missing or counted twice; the run directory is damaged.
        """
        state = self.peek()
        tally = state.tally
        read = sum(record.samples + (record.reason is not None) for record in state.finished.values())
        if not state.committed and tally.scored + tally.quarantined != read:
            raise RaymiaError(
                f"{self.run}: {tally.scored} scored and {tally.quarantined} quarantined, but {read} read; "
                "the run directory was changed from outside: remove it and scan again"
            )
        return Counts(
            read=read,
            scored=tally.scored,
            quarantined=tally.quarantined,
            by_reason=dict(tally.by_reason.most_common()),
            flagged=dict(tally.flagged.most_common()),
            expected=expected,
        )

    def _open_quarantine(self, committed: dict[ShardPlace, Any]) -> list[str]:
        """Quarantine files of the committed units of shards that are not finished."""
        names = self.storage.names("quarantine", UNIT_ENDING) if committed else []
        units = ((name, *_unit_of(name)) for name in names)
        return [name for name, place, unit in units if unit in committed.get(place, ())]

    def _tables(self, names: Sequence[str], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        for start in range(0, len(names), FILES_AT_ONCE):
            part = names[start : start + FILES_AT_ONCE]
            for name, content in zip(part, self.storage.read_many(part), strict=True):
                yield self._parse(name, content, columns)

    def _parse(self, name: str, content: bytes, columns: Sequence[str] | None = None) -> pa.Table:
        try:
            return pq.read_table(io.BytesIO(content), columns=None if columns is None else list(columns))
        except (pa.ArrowException, OSError) as error:
            problem = f"{self.run}/{name}: not readable as Parquet ({error})"
            raise RaymiaError(f"{problem}; delete it and its shard's file below shards/, and run the scan again") from error


def _as_of_one_moment(read: Callable[[], T]) -> T:
    """Read again where a scan that runs meanwhile put files together between their listing and their reading."""
    for _ in range(READ_AGAIN):
        try:
            return read()
        except FileNotFoundError:
            continue
    return read()


def _record_name(split: str, shard: str) -> str:
    return f"shards/{split}/{shard}.json"


def _unit_name(folder: str, place: ShardPlace, unit: int) -> str:
    return f"{folder}/{place[0]}/{place[1]}-{unit:06d}{UNIT_ENDING}"


def _unit_of(name: str) -> tuple[ShardPlace, int | None]:
    """Split and shard of a file, and the number of its unit; no number for the file of a whole shard."""
    split, base = name.split("/")[-2:]
    if base.endswith(SHARD_ENDING):
        return (split, base.removesuffix(SHARD_ENDING)), None
    shard, _, unit = base.removesuffix(UNIT_ENDING).rpartition("-")
    return (split, shard), int(unit)


def _is_current(name: str, finished: dict[ShardPlace, ShardRecord]) -> bool:
    """Whether readers take a file: a shard's own once it is finished, those of its units until then."""
    place, unit = _unit_of(name)
    return (place in finished) == (unit is None)
