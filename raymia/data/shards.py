"""Shards as a Ray dataset: one read task per tar, one row per batch of consecutive samples of one unit.

A row is a whole batch, so that Ray never splits or merges batches: which samples stand in front of a replica together
depends on the shard, the unit size and the batch size alone, not on timing, retries or resume. Work that is committed
already is not read again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
from ray.data import Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from raymia.data.manifest import Shard
from raymia.data.prompts import PromptOf, Prompts
from raymia.data.selection import ShardReader
from raymia.data.tar import RawSample, ShardEnd

SAMPLE = pa.struct(
    [
        ("key", pa.string()),
        ("index", pa.int64()),
        ("image", pa.large_binary()),
        ("caption", pa.string()),
        ("prompt", pa.string()),
        ("flags", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
END = pa.struct(
    [
        ("samples", pa.int64()),
        ("bytes_reached", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
PLACE = [
    ("split", pa.string()),
    ("shard", pa.string()),
    ("member", pa.bool_()),
    ("unit", pa.int64()),
    ("batch", pa.int64()),
    ("last_in_unit", pa.bool_()),
]
"""Columns that say where a row belongs; `batch` counts within the unit."""

BATCH_SCHEMA = pa.schema([*PLACE, ("end", END), ("read_s", pa.float64()), ("samples", pa.list_(SAMPLE))])
"""Either `samples` holds a batch, or `end` says how the shard ended, and of the other columns only split, shard, member and
`read_s`, the seconds that reading took, are set."""


@dataclass(frozen=True)
class ShardWork:
    """A shard with the units of it that are committed already."""

    reader: ShardReader
    committed: frozenset[int]


class ShardDatasource(Datasource):  # type: ignore[misc]
    """Reads tars tolerantly: damage becomes values in rows, never an error of the read task."""

    def __init__(self, work: list[ShardWork], unit_size: int, batch_size: int, prompts: Prompts) -> None:
        """Args:
        work: shards in the order in which they are to be read.
        unit_size: samples per unit.
        batch_size: samples per row.
        prompts: what the model is to be told about each sample.
        """
        super().__init__()
        self._work = work
        self._unit_size = unit_size
        self._batch_size = batch_size
        self._prompts = prompts

    def get_name(self) -> str:
        return "Shards"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object | None = None
    ) -> list[ReadTask]:
        """One task per shard, whatever `parallelism` asks for: damage in one tar takes no neighbour along."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [
            ReadTask(_Read(work, self._unit_size, self._batch_size, self._prompts), metadata, BATCH_SCHEMA, per_task_row_limit)
            for work in self._work
        ]


@dataclass(frozen=True)
class _Read:
    work: ShardWork
    unit_size: int
    batch_size: int
    prompts: Prompts

    def __call__(self) -> Iterable[pa.Table]:
        return batches(self.work, self.unit_size, self.batch_size, self.prompts)


def batches(work: ShardWork, unit_size: int, batch_size: int, prompts: Prompts) -> Iterator[pa.Table]:
    """The batches of a shard's uncommitted units as tables of one row, then one row for the shard's end."""
    shard = work.reader.shard
    prompt_of = prompts.of_shard(work.reader)
    held: list[RawSample] = []
    clock = _Clock()
    for item in work.reader.read(lambda index: index // unit_size not in work.committed):
        if isinstance(item, ShardEnd):
            if held:
                yield from clock.timed(_batch(shard, held, prompt_of, unit_size, batch_size, last=True))
            yield from clock.timed(_end(shard, item))
            return
        # Held back by one sample: whether a batch is the last of its unit shows only when the next sample comes.
        if held and (_place(held[0], unit_size, batch_size) != _place(item, unit_size, batch_size)):
            last = held[0].index // unit_size != item.index // unit_size
            yield from clock.timed(_batch(shard, held, prompt_of, unit_size, batch_size, last))
            held = []
        held.append(item)


class _Clock:
    """Times the making of rows, but not the waiting until they are wanted."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def timed(self, row: pa.Table) -> Iterator[pa.Table]:
        place = BATCH_SCHEMA.get_field_index("read_s")
        spent = pa.array([time.perf_counter() - self._start])
        yield row.set_column(place, BATCH_SCHEMA.field(place), spent)
        self._start = time.perf_counter()


def _place(sample: RawSample, unit_size: int, batch_size: int) -> tuple[int, int]:
    unit, position = divmod(sample.index, unit_size)
    return unit, position // batch_size


def _batch(
    shard: Shard, samples: list[RawSample], prompt_of: PromptOf, unit_size: int, batch_size: int, last: bool
) -> pa.Table:
    unit, batch = _place(samples[0], unit_size, batch_size)
    rows = [
        {
            "key": sample.key,
            "index": sample.index,
            "image": sample.image,
            "caption": sample.caption,
            "prompt": prompt_of(sample),
            "flags": ",".join(sample.flags),
            "reason": sample.fault.reason if sample.fault else None,
            "detail": sample.fault.detail if sample.fault else None,
        }
        for sample in samples
    ]
    place: dict[str, object] = {"split": shard.split, "shard": shard.name, "member": shard.member}
    place |= {"unit": unit, "batch": batch, "last_in_unit": last}
    return pa.Table.from_pylist([{**place, "end": None, "samples": rows}], schema=BATCH_SCHEMA)


def _end(shard: Shard, end: ShardEnd) -> pa.Table:
    facts = {
        "samples": end.samples,
        "bytes_reached": end.bytes_reached,
        "reason": end.fault.reason if end.fault else None,
        "detail": end.fault.detail if end.fault else None,
    }
    row = {"split": shard.split, "shard": shard.name, "member": shard.member, "end": facts}
    return pa.Table.from_pylist([row], schema=BATCH_SCHEMA)
