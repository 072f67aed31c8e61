"""Shards as rows: one row per batch of consecutive samples of one unit, then one for the shard's end. No Ray.

A row is a whole batch, so that Ray never splits or merges batches: which samples stand in front of a replica together
depends on the shard, the unit size and the batch size alone, not on timing, retries or resume. Work that is committed
already is not read again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from raymia.data.manifest import Shard
from raymia.data.prompts import PromptOf, Prompts
from raymia.data.selection import ShardReader
from raymia.data.tar import RawSample, ShardEnd
from raymia.run.columns import fields, named

SAMPLE = pa.struct([*fields("read"), ("image", pa.large_binary()), *named("reason", "detail")])
"""A sample as it was read, or why it could not be."""
END = pa.struct([(name, pa.int64()) for name in ("samples", "bytes_reached", "skipped")] + named("reason", "detail"))
BATCH_PLACE = [*named("split", "shard", "member", "unit"), pa.field("batch", pa.int64()), pa.field("last_in_unit", pa.bool_())]
"""Columns that say where a row belongs; `batch` counts within the unit."""
BATCH_PLACE_NAMES = [column.name for column in BATCH_PLACE]

BATCH_SCHEMA = pa.schema([*BATCH_PLACE, ("end", END), ("read_s", pa.float64()), ("samples", pa.list_(SAMPLE))])
"""Either `samples` holds a batch, or `end` says how the shard ended, and of the other columns only split, shard, member and
`read_s`, the seconds that reading took, are set."""


@dataclass(frozen=True)
class ShardWork:
    """A shard with the units of it that are committed already."""

    reader: ShardReader
    committed: frozenset[int]


@dataclass(frozen=True)
class ReadBatches:
    """Reads the uncommitted units of a shard; see `batches`."""

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
        "skipped": end.skipped,
        "reason": end.fault.reason if end.fault else None,
        "detail": end.fault.detail if end.fault else None,
    }
    row = {"split": shard.split, "shard": shard.name, "member": shard.member, "end": facts}
    return pa.Table.from_pylist([row], schema=BATCH_SCHEMA)
