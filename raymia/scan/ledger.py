"""The record of a scan on disk or object store: committed units, finished shards, and what the run is.

A unit is committed when its file below ``scores/`` exists: it appears whole, by rename or single put, and after its
quarantine. A shard is finished when its file below ``shards/`` exists; it holds how many samples were read.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel

from raymia.config import CONTROL
from raymia.data.tar import ShardEnd
from raymia.errors import ConfigError, RaymiaError
from raymia.scan.rows import QUARANTINE

RUN_FILE = "run.json"
CLUSTERS_FILE = "clusters.parquet"
RETRIED_FAULTS = ("missing_shard", "unreadable_shard")
"""Faults of a shard that gave no sample which the next run tries again: the file may be back."""

QUARANTINE_SCHEMA = pa.schema([("split", pa.string()), ("shard", pa.string()), ("unit", pa.int64()), *QUARANTINE])


class ShardRecord(BaseModel):
    """How reading a shard ended."""

    split: str
    shard: str
    samples: int
    bytes_reached: int
    reason: str | None
    detail: str | None


class Counts(BaseModel):
    """Every sample accounted for: scored + quarantined = read.

    A shard that could not be read to its end counts as one more read and quarantined, for the rest of it.
    """

    read: int
    scored: int
    quarantined: int
    by_reason: dict[str, int]
    flagged: dict[str, int]
    """Scored samples by remark, such as ``no_caption``."""
    expected: int | None
    """Samples that the manifest announces, where it does for every split."""

    @classmethod
    def of_table(cls, rows: int) -> Counts:
        """Counts of a table that no scan made: every row is a scored sample."""
        return cls(read=rows, scored=rows, quarantined=0, by_reason={}, flagged={}, expected=None)

    @property
    def quarantined_fraction(self) -> float:
        """Share of samples not scored, of those read or, where more, of those the manifest announces."""
        total = max(self.read, self.expected or 0)
        return (total - self.scored) / total if total else 0.0


class Ledger:
    """A run directory at a local path or any fsspec URL."""

    def __init__(self, run: str) -> None:
        self.run = run
        self._fs, self._root = fsspec.core.url_to_fs(run)

    def control(self) -> Ledger:
        """The run directory of the control model within this one; it may not exist."""
        return Ledger(f"{self.run}/{CONTROL}")

    def require_writable(self) -> None:
        """Make the directory and try a write.

        Raises:
            ConfigError: it cannot be written.
        """
        try:
            self._fs.makedirs(self._root, exist_ok=True)
            self.write_bytes(".writable", b"")
            self._fs.rm(self._path(".writable"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"run {self.run}: cannot be written ({error}); choose another run directory with --run"
            ) from error

    def read_run(self) -> dict[str, Any] | None:
        """Contents of run.json; none for a new run.

        Raises:
            RaymiaError: it exists but is not JSON.
        """
        text = self.read_text(RUN_FILE)
        if text is None:
            return None
        try:
            content = json.loads(text)
        except ValueError as error:
            raise RaymiaError(f"{self.run}/{RUN_FILE}: not JSON ({error}); the run directory is damaged") from error
        return dict(content)

    def read_text(self, name: str) -> str | None:
        """A text file of the run directory; none where there is no such file."""
        try:
            content: bytes = self._fs.cat_file(self._path(name))
        except FileNotFoundError:
            return None
        return content.decode("utf-8", "replace")

    def write_run(self, content: dict[str, Any]) -> None:
        """Replace run.json."""
        self.write_text(RUN_FILE, json.dumps(content, indent=2, sort_keys=True) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the run directory, whole or not at all."""
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file of the run directory, whole or not at all."""
        path = self._path(name)
        if not isinstance(self._fs, LocalFileSystem):
            self._fs.pipe_file(path, content)  # object stores show an object only when it is whole
            return
        folder, base = path.rsplit("/", 1)
        os.makedirs(folder, exist_ok=True)
        draft = f"{folder}/.{base}.{os.getpid()}"
        with open(draft, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, path)

    def write_clusters(self, clusters: pa.Table) -> None:
        """Keep the near-duplicate clusters of the manifest, so that evaluation needs the run directory alone."""
        self.write_bytes(CLUSTERS_FILE, _parquet(clusters))

    def clusters(self) -> pa.Table | None:
        """Columns split, key, cluster of `raymia.data.clusters`; none where the manifest names none."""
        path = self._path(CLUSTERS_FILE)
        return self._read(path) if self._fs.exists(path) else None

    def commit_unit(self, split: str, shard: str, unit: int, scores: pa.Table, quarantine: pa.Table) -> None:
        """Commit a unit: its quarantine first, then the scores whose existence is the commit."""
        name = f"{split}/{shard}-{unit:06d}.parquet"
        if len(quarantine):
            self.write_bytes(f"quarantine/{name}", _parquet(quarantine))
        self.write_bytes(f"scores/{name}", _parquet(scores))

    def finish_shard(self, split: str, shard: str, end: ShardEnd) -> None:
        """Record that a shard was read to its end, or as far as it can be read."""
        fault = end.fault
        if fault is not None:
            row = {"split": split, "shard": shard, "stage": "shard", "reason": fault.reason}
            row["detail"] = f"{fault.detail} ({end.bytes_reached} bytes reached)"
            table = pa.Table.from_pylist([row], schema=QUARANTINE_SCHEMA)
            self.write_bytes(f"quarantine/{split}/{shard}-shard.parquet", _parquet(table))
        record = ShardRecord(
            split=split,
            shard=shard,
            samples=end.samples,
            bytes_reached=end.bytes_reached,
            reason=fault.reason if fault else None,
            detail=fault.detail if fault else None,
        )
        self.write_text(f"shards/{split}/{shard}.json", record.model_dump_json() + "\n")

    def forget_shard(self, split: str, shard: str) -> None:
        """Remove the record of a shard that is to be tried again."""
        for name in (f"shards/{split}/{shard}.json", f"quarantine/{split}/{shard}-shard.parquet"):
            if self._fs.exists(self._path(name)):
                self._fs.rm(self._path(name))

    def committed(self) -> dict[tuple[str, str], frozenset[int]]:
        """Committed units by (split, shard)."""
        units: dict[tuple[str, str], set[int]] = defaultdict(set)
        for path in self._list("scores", ".parquet"):
            split, name = path.split("/")[-2:]
            shard, unit = name.removesuffix(".parquet").rsplit("-", 1)
            units[split, shard].add(int(unit))
        return {place: frozenset(found) for place, found in units.items()}

    def committed_samples(self) -> int:
        """Samples of committed units, scored and quarantined."""
        rows = sum(len(table) for table in self._tables("scores", ["unit"]))
        return rows + sum(unit is not None for unit in self.quarantine().column("unit").to_pylist())

    def finished(self) -> dict[tuple[str, str], ShardRecord]:
        """Records of finished shards by (split, shard)."""
        records = [ShardRecord.model_validate_json(self._fs.cat_file(path)) for path in self._list("shards", ".json")]
        return {(record.split, record.shard): record for record in records}

    def scores(self, columns: list[str] | None = None) -> pa.Table:
        """Rows of all committed units, in a fixed order.

        Raises:
            RaymiaError: nothing is committed.
        """
        tables = list(self._tables("scores", columns))
        if not tables:
            raise RaymiaError(f"{self.run}: no committed unit; run the scan first")
        return pa.concat_tables(tables)

    def quarantine(self) -> pa.Table:
        """Quarantined samples of committed units, and shards that could not be read to their end."""
        committed = {path.split("/scores/")[-1] for path in self._list("scores", ".parquet")}
        finished = {path.split("/shards/")[-1].removesuffix(".json") for path in self._list("shards", ".json")}
        tables = []
        for path in self._list("quarantine", ".parquet"):
            name = path.split("/quarantine/")[-1]
            if name in committed or name.removesuffix("-shard.parquet") in finished:
                tables.append(self._read(path))
        return pa.concat_tables(tables) if tables else QUARANTINE_SCHEMA.empty_table()

    def counts(self, expected: int | None) -> Counts:
        """Count the samples of committed units and finished shards.

        Raises:
            RaymiaError: samples are missing or counted twice; the run directory is damaged.
        """
        quarantine = self.quarantine()
        flags = [flag for table in self._tables("scores", ["flags"]) for flag in table.column("flags").to_pylist()]
        scored = len(flags)
        finished = self.finished()
        read = sum(record.samples + (record.reason is not None) for record in finished.values())
        counts = Counts(
            read=read,
            scored=scored,
            quarantined=len(quarantine),
            by_reason=dict(Counter(quarantine.column("reason").to_pylist()).most_common()),
            flagged=dict(Counter(name for flag in flags if flag for name in flag.split(",")).most_common()),
            expected=expected,
        )
        if set(self.committed()) <= set(finished) and scored + counts.quarantined != read:
            raise RaymiaError(
                f"{self.run}: {scored} scored and {counts.quarantined} quarantined, but {read} read; "
                "the run directory was changed from outside: remove it and scan again"
            )
        return counts

    def _tables(self, folder: str, columns: list[str] | None) -> Iterator[pa.Table]:
        for path in self._list(folder, ".parquet"):
            yield self._read(path, columns)

    def _read(self, path: str, columns: list[str] | None = None) -> pa.Table:
        try:
            return pq.read_table(io.BytesIO(self._fs.cat_file(path)), columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise RaymiaError(f"{path}: not readable as Parquet ({error}); delete it and run the scan again") from error

    def _list(self, folder: str, ending: str) -> list[str]:
        try:
            found = self._fs.find(self._path(folder))
        except FileNotFoundError:
            return []
        return sorted(path for path in found if path.endswith(ending) and not path.rsplit("/", 1)[-1].startswith("."))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def without_secrets(value: Any) -> Any:
    """A copy of JSON-like data in which URLs have lost user names, passwords and query strings."""
    if isinstance(value, dict):
        return {key: without_secrets(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    if isinstance(value, str) and "://" in value:
        return re.sub(r"(?<=://)[^/@]*@", "", value).split("?", 1)[0]
    return value
