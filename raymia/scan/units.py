"""Puts units together from batches that come back in any order, and commits them when they are whole."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import pyarrow as pa

from raymia.data.tar import Fault, ShardEnd
from raymia.run.columns import QUARANTINE_SCHEMA, QUARANTINED, named
from raymia.run.files import ShardPlace
from raymia.run.ledger import Ledger
from raymia.run.shown import COLUMN, shown_table
from raymia.scan.batches import BATCH_PLACE_NAMES
from raymia.scan.decoding import STAGE_SECONDS
from raymia.scan.monitoring import Monitor

log = logging.getLogger(__name__)


@dataclass
class _Unit:
    batches: dict[int, tuple[pa.StructArray, pa.StructArray]] = field(default_factory=dict)
    size: int | None = None

    @property
    def whole(self) -> bool:
        return self.size is not None and len(self.batches) == self.size


class Units:
    """Collects scored rows into units, commits whole units, and finishes a shard after the last of its units."""

    def __init__(
        self,
        ledger: Ledger,
        row_type: pa.StructType,
        unit_size: int,
        committed: dict[ShardPlace, frozenset[int]],
        monitor: Monitor,
    ) -> None:
        self._ledger = ledger
        self._row_type = row_type
        self._unit_size = unit_size
        self._monitor = monitor
        self._committed = defaultdict(set, {place: set(units) for place, units in committed.items()})
        self._open: dict[tuple[str, str, int], _Unit] = {}
        self._ends: dict[ShardPlace, ShardEnd] = {}

    def add(self, table: pa.Table) -> None:
        """Take rows as `raymia.scan.rows.score_rows` makes them."""
        for i, row in enumerate(table.select([*BATCH_PLACE_NAMES, *STAGE_SECONDS, "end", "evaluations"]).to_pylist()):
            spent = {stage.removesuffix("_s"): row[stage] for stage in STAGE_SECONDS}
            evaluations = row["evaluations"] or {}
            started = time.monotonic()
            place = (row["split"], row["shard"])
            if row["end"] is not None:
                end = row["end"]
                fault = Fault(end["reason"], end["detail"]) if end["reason"] else None
                self._ends[place] = ShardEnd(end["samples"], end["bytes_reached"], fault, end["skipped"])
                self._monitor.shard_end(fault.reason if fault else None, evaluations, spent)
            else:
                scores = _items(table.column("scores")[i], self._row_type)
                quarantine = _items(table.column("quarantine")[i], pa.struct(QUARANTINED))
                reasons = Counter(quarantine.field("reason").to_pylist())
                self._monitor.batch(len(scores), reasons, evaluations, spent)
                unit = self._open.setdefault((*place, row["unit"]), _Unit())
                unit.batches[row["batch"]] = (scores, quarantine)
                if row["last_in_unit"]:
                    unit.size = row["batch"] + 1
                if unit.whole:
                    self._commit(place, row["unit"], row["member"])
            self._finish(place)
            self._monitor.spent({"commit": time.monotonic() - started})

    @property
    def pending(self) -> list[str]:
        """Units and shards that have begun and not ended: none after an undisturbed scan."""
        units = [f"{split}/{shard} unit {unit}" for split, shard, unit in self._open]
        return units + [f"{split}/{shard} end" for split, shard in self._ends]

    def _commit(self, place: ShardPlace, number: int, member: bool | None) -> None:
        unit = self._open.pop((*place, number))
        batches = [unit.batches[position] for position in sorted(unit.batches)]
        scores = pa.Table.from_struct_array(pa.concat_arrays([scores for scores, _ in batches]))
        quarantine = pa.Table.from_struct_array(pa.concat_arrays([bad for _, bad in batches]))
        shown = shown_table(scores, *place, number) if COLUMN in scores.column_names else None
        scores = scores if shown is None else scores.drop_columns([COLUMN])
        constants = {"shard": place[1], "unit": number, "split": place[0]}
        self._ledger.commit_unit(
            *place,
            number,
            _with_constants(scores, {**constants, "member": member}),
            _with_constants(quarantine, constants).select(QUARANTINE_SCHEMA.names),
            shown,
        )
        self._committed[place].add(number)
        self._monitor.unit()
        where = {"run": self._ledger.run, "split": place[0], "shard": place[1], "unit": number}
        log.debug("unit committed", extra={**where, "samples": len(scores), "quarantined": len(quarantine)})

    def _finish(self, place: ShardPlace) -> None:
        end = self._ends.get(place)
        units = 0 if end is None else -(-end.samples // self._unit_size)
        if end is not None and len(self._committed[place]) == units:
            self._ledger.finish_shard(*place, end, units)
            log.debug(
                "shard finished", extra={"run": self._ledger.run, "split": place[0], "shard": place[1], "samples": end.samples}
            )
            del self._ends[place]


def _items(value: pa.ListScalar, kind: pa.StructType) -> pa.StructArray:
    array = value.values
    return pa.array([], kind) if array is None else array.cast(kind)


def _with_constants(table: pa.Table, constants: dict[str, object]) -> pa.Table:
    # Behind the key, in the order in which they are named.
    for position, column in enumerate(named(*constants), start=1):
        table = table.add_column(position, column, pa.array([constants[column.name]] * len(table), column.type))
    return table
