"""The stream of a scan: shards are read, decoded on CPUs and scored by a pool of replicas; tables come back as made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
import ray

from raymia.engine.pool import Pool
from raymia.engine.shards import Read, ShardDatasource
from raymia.engine.start import configure

DECODING_CPUS = 0.5
"""Other than a replica's share, since Ray fuses stages of equal needs, and decoding inside replicas would make them wait."""

Work = Callable[[pa.Table], pa.Table]
"""One row in, one row out."""


class ScoringActor:
    """Work that is made ready once, within the process that does it, and then done row by row."""

    def __init__(self, load: Callable[[], Work]) -> None:
        """Load what the work needs."""
        self._work = load()

    def __call__(self, table: pa.Table) -> pa.Table:
        return self._work(table)


def stream(reads: Sequence[Read], schema: pa.Schema, decode: Work, load: Callable[[], Work], pool: Pool) -> Iterator[pa.Table]:
    """Read, decode and score every row once, in any order.

    A row stays whole on its way: Ray neither splits nor merges what is one row.

    Args:
        reads: one for each shard.
        schema: of what they give.
        decode: on CPU tasks.
        load: makes the scoring ready, in each actor of the pool.
        pool: of actors.
    """
    configure()
    scored = (
        ray.data.read_datasource(ShardDatasource(reads, schema), override_num_blocks=len(reads))
        .map_batches(decode, batch_format="pyarrow", batch_size=1, num_cpus=DECODING_CPUS, udf_modifying_row_count=False)
        .repartition(target_num_rows_per_block=1)
        .map_batches(
            ScoringActor,
            fn_constructor_args=(load,),
            batch_format="pyarrow",
            batch_size=1,
            compute=pool.strategy,
            udf_modifying_row_count=False,
            **pool.placement,
        )
    )
    yield from scored.iter_batches(batch_size=None, batch_format="pyarrow")
