"""The record of a scan on disk or object store: committed units, finished shards, and what the run is.

A unit is committed when its file below ``scores/`` exists: it appears whole, by rename or single put, and after its
quarantine. A shard is finished when its file below ``shards/`` exists; it holds how many samples were read. From then on
the shard's units stand together in one file, so that a run has few files however many units it has.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from raymia.data.tar import ShardEnd
from raymia.documents import DocumentError, parse_json
from raymia.errors import ConfigError, RaymiaError, describe_validation, first_line
from raymia.run.columns import QUARANTINE_SCHEMA
from raymia.run.files import (
    EXHIBITS,
    QUARANTINE,
    SCORES,
    SHARDS,
    UNIT_ENDING,
    DamagedRunError,
    FileRecord,
    ShardPlace,
    ShardRecord,
    record_name,
    shard_name,
    unit_name,
    unit_of,
)
from raymia.run.listing import Listing, damaged, finished_shards
from raymia.run.record import CONTROL, FORMAT, RUN_FILE, Counts, RunRecord, ScanRecord, parse_record
from raymia.run.storage import Storage, StorageError, table_bytes
from raymia.run.tally import Tally
from raymia.urls import public

CLUSTERS_FILE = "clusters.parquet"
MAX_RECORD_BYTES = 512 * 2**20
"""A run.json of more is not read: with a million shards it has a third of that."""
FILES_AT_ONCE = 256
"""Files that are read together; this bounds memory."""
READ_AGAIN = 5
"""How often a reading that a running scan has disturbed is begun again."""
QUARANTINED_COUNT = "quarantined"
"""Metadata of a unit's scores file that says how many of its samples stand in a quarantine file."""
T = TypeVar("T")


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
            ConfigError: the URL's file system is unknown, not installed, or cannot be used as it is.
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
        except StorageError as error:
            raise ConfigError(
                f"run {self.run}: cannot be written ({error}); choose another run directory with --run"
            ) from error

    def read_run(self) -> RunRecord | None:
        """Contents of run.json; none for a new run.

        Raises:
            RaymiaError: the file exists but cannot be read; names the field.
        """
        content = self.storage.read(RUN_FILE, MAX_RECORD_BYTES)
        if content is None:
            return None
        try:
            record = parse_json(content)
            if not isinstance(record, dict):
                raise ValueError(f"expected a map of fields, not {type(record).__name__}")
            return parse_record(record)
        except ValidationError as error:
            reason = describe_validation(error, ScanRecord)
        except DocumentError as error:
            reason = str(error)
        except ValueError as error:
            reason = first_line(error)
        problem = f"{self.run}/{RUN_FILE}: cannot be read: {reason}"
        raise RaymiaError(f"{problem}; put back the file that the scan wrote, or choose another run directory")

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
        """Replace run.json.

        Raises:
            LostLeaseError: another scan has taken the run over.
        """
        self.storage.check(anew=True)
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

    def commit_unit(
        self, split: str, shard: str, unit: int, scores: pa.Table, quarantine: pa.Table, shown: pa.Table | None = None
    ) -> None:
        """Commit a unit: its quarantine and what is shown of it first, then the scores whose existence is the commit.

        Args:
            split: split of the shard.
            shard: name of the shard.
            unit: number of the unit in the shard, from 0.
            scores: one row per scored sample.
            quarantine: one row per sample that could not be scored, by `QUARANTINE_SCHEMA`.
            shown: what attacks show beside the scores, by `raymia.run.shown.SCHEMA`; none where they show nothing.

        Raises:
            StorageError: a file cannot be written.
            LostLeaseError: another scan has taken the run over.
        """
        place = (split, shard)
        self.storage.check(anew=True)
        if len(quarantine):
            self.storage.write_table(unit_name(QUARANTINE, place, unit), _without_secrets(quarantine))
        if shown is not None:
            self.storage.write_table(unit_name(EXHIBITS, place, unit), shown)
        marked = scores.replace_schema_metadata({QUARANTINED_COUNT: str(len(quarantine))})
        self.storage.write_table(unit_name(SCORES, place, unit), marked)

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
            LostLeaseError: another scan has taken the run over.
            DamagedRunError: a committed unit is not there any more, or not readable.
        """
        place = (split, shard)
        self.storage.check(anew=True)
        names = [unit_name(SCORES, place, unit) for unit in range(units)]
        scores = list(self._committed(names, "flags"))
        marks = [(table.schema.metadata or {}).get(QUARANTINED_COUNT.encode(), b"0") for table in scores]
        bad = [unit_name(QUARANTINE, place, unit) for unit, mark in enumerate(marks) if mark != b"0"]
        quarantine = list(self._committed(bad, "reason"))
        detail = public(end.fault.detail) if end.fault else None
        if end.fault is not None:
            row = {"split": split, "shard": shard, "stage": "shard", "reason": end.fault.reason}
            row["detail"] = f"{detail} ({end.bytes_reached} bytes reached)"
            quarantine.append(pa.Table.from_pylist([row], schema=QUARANTINE_SCHEMA))
        tally = Tally()
        for table in scores:
            tally.flag(table.column("flags").to_pylist())
        reasons = [reason for table in quarantine for reason in table.column("reason").to_pylist()]
        tables = {shard_name(QUARANTINE, place): quarantine, shard_name(SCORES, place): scores}
        record = ShardRecord(
            split=split,
            shard=shard,
            samples=end.samples,
            bytes_reached=end.bytes_reached,
            reason=end.fault.reason if end.fault else None,
            detail=detail,
            units=units,
            scored=sum(map(len, scores)),
            by_reason=dict(Counter(reasons)),
            flagged=dict(tally.flagged),
            files={name: self._together(name, parts) for name, parts in tables.items() if parts},
            skipped=end.skipped,
        )
        self.storage.check(anew=True)
        self.write_text(record_name(place), record.model_dump_json() + "\n")
        self.storage.remove([*names, *bad])

    def _together(self, name: str, parts: list[pa.Table]) -> FileRecord:
        """Write tables as one file; give what must be found there."""
        try:
            table = pa.concat_tables(parts).replace_schema_metadata(None)
        except pa.ArrowException as error:
            problem = f"the units that belong together there have different columns ({first_line(error)})"
            raise DamagedRunError(f"{self.run}/{name}: {problem}; delete them, and the scan does them again") from error
        content = table_bytes(table)
        self.storage.write(name, content)
        return FileRecord.of(len(table), content)

    def _committed(self, names: Sequence[str], column: str) -> Iterator[pa.Table]:
        """Tables of committed units, with a column that each must have."""
        try:
            for name, table in zip(names, self._tables(names), strict=True):
                if column not in table.column_names:
                    raise self._unreadable(name, f"has no column {column}")
                yield table
        except FileNotFoundError as error:
            lacking = sorted(set(names) - set(self.storage.names(names[0].rsplit("/", 1)[0], UNIT_ENDING)))
            raise DamagedRunError(
                f"{self.run}/{lacking[0] if lacking else names[0]}: was committed and is gone; "
                "run the same command again, and its unit is done again"
            ) from error

    def forget_shard(self, split: str, shard: str) -> None:
        """Take back a finished shard that is to be tried again: its record first, so that no moment shows half of it."""
        place = (split, shard)
        self.storage.remove([record_name(place), shard_name(SCORES, place), shard_name(QUARANTINE, place)])

    def state(self) -> LedgerState:
        """What is committed; units that a finished shard has left behind are removed, and what a killed scan half wrote.

        Only the scan that holds the run's lock may ask; others `peek`.

        Raises:
            DamagedRunError: the run directory was changed from outside; names the file and what to do.
        """
        for folder in (SCORES, QUARANTINE, SHARDS):
            self.storage.remove_drafts(folder)
        state, leftover = self._state()
        self.storage.remove(leftover)
        return state

    def peek(self) -> LedgerState:
        """What is committed, changing nothing.

        Raises:
            DamagedRunError: the run directory was changed from outside; names the file and what to do.
        """
        return _as_of_one_moment(self._state)[0]

    def _state(self) -> tuple[LedgerState, list[str]]:
        """What is committed, and the files of units that a finished shard has left behind."""
        listing = Listing(self.storage)
        committed = {place: frozenset(units) for place, units in listing.committed.items()}
        tally = Tally()
        for record in listing.finished.values():
            tally.scored += record.scored
            tally.by_reason.update(record.by_reason)
            tally.flagged.update(record.flagged)
            tally.units += record.units
            tally.cut_shards += record.reason is not None
        open_names = [unit_name(SCORES, place, unit) for place, units in committed.items() for unit in units]
        for table in self._tables(open_names, ["flags"]):
            tally.scored += len(table)
            tally.flag(table.column("flags").to_pylist())
        for table in self._tables(listing.open_quarantine, ["reason"]):
            tally.by_reason.update(table.column("reason").to_pylist())
        tally.units += len(open_names)
        return LedgerState(listing.finished, committed, tally), listing.leftover

    def finished(self) -> dict[ShardPlace, ShardRecord]:
        """Records of finished shards by (split, shard).

        Raises:
            DamagedRunError: a record cannot be read, or stands under another's name; names its file.
        """
        return finished_shards(self.storage)

    def check(self, record: RunRecord) -> None:
        """Hold the files of a finished run against what it says of itself: none removed, none added.

        What the files hold is checked where they are read. A run that is not finished is not checked.

        Raises:
            DamagedRunError: names the file and what to do.
        """
        if record.finished is None or record.format < FORMAT:
            return
        try:
            _as_of_one_moment(lambda: Listing(self.storage)).check(record)
        except DamagedRunError:
            # A scan may have begun to resume the run meanwhile.
            now = self.read_run()
            if now is not None and now.finished == record.finished and now.attempts == record.attempts:
                raise

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
        listing = Listing(self.storage)
        names = listing.names
        tables = list(self._tables(names, columns, listing.written))
        if not tables:
            raise RaymiaError(f"{self.run}: no committed unit; run the scan first")
        try:
            return pa.concat_tables(tables, promote_options="default")
        except pa.ArrowException as error:
            odd = next((n for n, table in zip(names, tables, strict=True) if not _alike(tables[0], table)), names[0])
            raise damaged(self.storage, odd, f"has other columns than {names[0]}", unit_of(odd)[0]) from error

    def quarantine(self) -> pa.Table:
        """Quarantined samples of committed units, and shards that could not be read to their end."""
        return _as_of_one_moment(self._quarantine)

    def _quarantine(self) -> pa.Table:
        listing = Listing(self.storage)
        tables = list(self._tables(listing.quarantine, QUARANTINE_SCHEMA.names, listing.written))
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

    def _tables(
        self,
        names: Sequence[str],
        columns: Sequence[str] | None = None,
        written: Mapping[str, FileRecord] | None = None,
    ) -> Iterator[pa.Table]:
        """Tables by the names of their files, each held against what was written, where that is known."""
        for start in range(0, len(names), FILES_AT_ONCE):
            part = names[start : start + FILES_AT_ONCE]
            for name, content in zip(part, self.storage.read_many(part), strict=True):
                record = (written or {}).get(name)
                difference = None if record is None else record.difference(content)
                if difference is not None:
                    raise damaged(self.storage, name, difference, unit_of(name)[0])
                table = self._parse(name, content, columns)
                if record is not None and len(table) != record.rows:
                    raise damaged(self.storage, name, f"{len(table)} rows, {record.rows} were written", unit_of(name)[0])
                yield table

    def _parse(self, name: str, content: bytes, columns: Sequence[str] | None = None) -> pa.Table:
        try:
            table = pq.read_table(io.BytesIO(content), columns=None if columns is None else list(columns))
            table.validate(full=True)  # text that is no UTF-8 would raise wherever it is read
        except Exception as error:
            raise self._unreadable(name, f"not readable as Parquet ({first_line(error)})") from error
        lacking = [column for column in columns or () if column not in table.column_names]
        if lacking:
            raise self._unreadable(name, f"has no column {', '.join(lacking)}")
        return table

    def _unreadable(self, name: str, problem: str) -> DamagedRunError:
        if name == CLUSTERS_FILE:
            return DamagedRunError(f"{self.run}/{name}: {problem}; run the scan again, which writes it anew")
        place, unit = unit_of(name)
        if unit is None:
            return damaged(self.storage, name, problem, place)
        return DamagedRunError(f"{self.run}/{name}: {problem}; delete it, and the scan does this unit again")


def _as_of_one_moment(read: Callable[[], T]) -> T:
    """Read again where a scan that runs meanwhile put files together between their listing and their reading."""
    for _ in range(READ_AGAIN):
        try:
            return read()
        except (FileNotFoundError, DamagedRunError):
            continue
    return read()


def _alike(one: pa.Table, other: pa.Table) -> bool:
    try:
        pa.concat_tables([one.slice(0, 0), other.slice(0, 0)], promote_options="default")
    except pa.ArrowException:
        return False
    return True


def _without_secrets(quarantine: pa.Table) -> pa.Table:
    """A quarantine table whose details have passed `public`."""
    place = quarantine.schema.get_field_index("detail")
    clean = [None if detail is None else public(detail) for detail in quarantine.column(place).to_pylist()]
    return quarantine.set_column(place, quarantine.schema.field(place), pa.array(clean, pa.string()))
