"""The stream of a scan: shards are read, decoded on CPUs and scored by a pool of replicas; tables come back as made."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
import ray

from raymia.engine.pool import Pool
from raymia.engine.shards import Read, ShardDatasource
from raymia.engine.start import NO_PROGRESS_TIMEOUT_S, configure
from raymia.errors import ConfigError

DECODING_CPUS = 0.5
"""CPUs of a decoding task. They differ from a replica's: Ray fuses stages of equal needs, and decoding inside replicas would
make these wait."""

Work = Callable[[pa.Table], pa.Table]
"""Turns a table of one row into another table of one row."""


class ScoringActor:
    """Work that is made ready once, within the process that does it, and then done row by row.

    The libraries and the model that it loads stay until its process ends. Python's collector of cycles leaves them out: looking
    through them took a third of the processor time in which a replica starts and ends.
    """

    def __init__(self, held: Sequence[ray.ObjectRef]) -> None:
        """Load what the work needs.

        Args:
            held: what makes the work ready, by reference, so that its libraries are loaded here and not before.
        """
        self._refused: ConfigError | None = None
        gc.disable()
        try:
            load: Callable[[], Work] = ray.get(held[0])
        finally:
            gc.enable()
        gc.freeze()
        try:
            self._work = load()
        except ConfigError as error:
            # Another try would say the same, and Ray tries three times to start an actor that fails to.
            self._refused = error
        gc.collect()
        gc.freeze()

    def __call__(self, table: pa.Table) -> pa.Table:
        if self._refused is not None:
            raise self._refused
        return self._work(table)


def stream(
    reads: Sequence[Read],
    schema: pa.Schema,
    decode: Work,
    load: Callable[[], Work],
    pool: Pool,
    patience_s: float = NO_PROGRESS_TIMEOUT_S,
) -> Iterator[pa.Table]:
    """Read, decode and score every row once, in any order.

    A row stays whole on its way: Ray neither splits nor merges what is one row.

    Args:
        reads: a function for each shard, which reads it.
        schema: schema of the tables that they give.
        decode: decodes a row, on CPU tasks.
        load: makes the scoring ready, in each actor of the pool.
        pool: how many actors there are, and where.
        patience_s: for which nothing may move before the stream is ended by an error.

    Returns:
        The scored rows, as tables of one row.
    """
    configure(patience_s)
    held = [ray.put(load)]
    scored = (
        ray.data.read_datasource(ShardDatasource(reads, schema), override_num_blocks=len(reads))
        .map_batches(decode, batch_format="pyarrow", batch_size=1, num_cpus=DECODING_CPUS, udf_modifying_row_count=False)
        .repartition(target_num_rows_per_block=1)
        .map_batches(
            ScoringActor,
            fn_constructor_args=(held,),
            batch_format="pyarrow",
            batch_size=1,
            compute=pool.strategy,
            udf_modifying_row_count=False,
            **pool.placement,
        )
    )
    yield from scored.iter_batches(batch_size=None, batch_format="pyarrow")
