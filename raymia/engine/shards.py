"""Shards as a Ray dataset: one read task for each, so that damage in one takes no neighbour along."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pyarrow as pa
from ray.data import Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

Read = Callable[[], Iterable[pa.Table]]
"""Reads one shard to its end, as tables of one row; never raises for bad data."""


class ShardDatasource(Datasource):  # type: ignore[misc]
    """Reads shards tolerantly: damage becomes values in rows, never an error of the read task."""

    def __init__(self, reads: Sequence[Read], schema: pa.Schema) -> None:
        """Take what is to be read.

        Args:
            reads: a function for each shard, in the order in which they are to be read.
            schema: schema of the tables that they give.
        """
        super().__init__()
        self._reads = list(reads)
        self._schema = schema

    def get_name(self) -> str:
        return "Shards"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object | None = None
    ) -> list[ReadTask]:
        """One task per shard, whatever `parallelism` asks for."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(read, metadata, self._schema, per_task_row_limit) for read in self._reads]
