"""What is known of a sample: one list of typed columns, from which every schema is derived."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from raymia.data.statistics import STATISTICS

Stage = Literal["read", "decode", "score", "embed", "fault", "commit", "evaluate"]
"""Which stage fills a column: reading the shard, decoding, scoring, embedding texts, whichever failed, committing, or
evaluating what the manifest says."""


@dataclass(frozen=True)
class Column:
    """One column of a table of samples.

    Attributes:
        name: name of the column in every table.
        kind: Arrow type of its values.
        stage: the stage that fills it.
        blind: whether a blind baseline may read it: it says something of the file or its caption and nothing of the model.
    """

    name: str
    kind: pa.DataType
    stage: Stage
    blind: bool = False

    @property
    def field(self) -> pa.Field:
        """The column as a field of an Arrow schema."""
        return pa.field(self.name, self.kind)


SIGNALS = "signals"
"""Attribute of a score table that holds descriptions of its signals, as run.json has them."""
EMBEDDING, TEXT_EMBEDDING = "clip_embedding", "clip_text_embedding"
"""Columns of the CLIP embeddings of the image and of its caption."""
GENERATED = "generated"
"""Column that says which images a model made, as a control."""

COLUMNS = (
    Column("key", pa.string(), "read"),
    Column("index", pa.int64(), "read"),
    Column("caption", pa.string(), "read", blind=True),
    Column("prompt", pa.string(), "read"),
    Column("flags", pa.string(), "read"),
    Column("image_sha256", pa.string(), "decode"),
    Column("width", pa.int64(), "decode", blind=True),
    Column("height", pa.int64(), "decode", blind=True),
    Column("jpeg_bytes", pa.int64(), "decode", blind=True),
    *(Column(name, pa.float64(), "decode", blind=True) for name in STATISTICS),
    Column(EMBEDDING, pa.list_(pa.float32()), "score", blind=True),
    Column(TEXT_EMBEDDING, pa.list_(pa.float32()), "embed", blind=True),
    Column("stage", pa.string(), "fault"),
    Column("reason", pa.string(), "fault"),
    Column("detail", pa.string(), "fault"),
    Column("shard", pa.string(), "commit"),
    Column("unit", pa.int64(), "commit"),
    Column("split", pa.string(), "commit"),
    Column("member", pa.bool_(), "commit"),
    Column(GENERATED, pa.bool_(), "evaluate"),
)
"""Every column, in the order in which tables have them."""
BY_NAME = {column.name: column for column in COLUMNS}
"""Every column, by its name."""
BLIND = frozenset(column.name for column in COLUMNS if column.blind)
"""Columns that a blind baseline may read."""


def fields(*stages: Stage) -> list[pa.Field]:
    """The columns that any of some stages fills, in the order of `COLUMNS`."""
    return [column.field for column in COLUMNS if column.stage in stages]


def named(*names: str) -> list[pa.Field]:
    """Columns by name, in the order given."""
    return [BY_NAME[name].field for name in names]


KNOWN = fields("read", "decode")
"""Columns of what is known of a sample before any model sees it."""
FAULT = fields("fault")
"""Columns that say why a sample could not be scored."""
QUARANTINED = [*named("key", "index"), *FAULT]
"""Columns of a sample that could not be scored, before it is committed."""
QUARANTINE_SCHEMA = pa.schema([*named("split", "shard", "unit"), *QUARANTINED])
"""Columns of a quarantine file, one row per sample."""


def scored(signals: Iterable[str], beside: Iterable[pa.Field] = ()) -> pa.StructType:
    """Type of a scored sample: what is known of it, a float column per signal, and its CLIP embedding or null.

    Args:
        signals: names of the score columns.
        beside: further columns that a sample has on its way.
    """
    return pa.struct([*KNOWN, *(pa.field(signal, pa.float64()) for signal in signals), *fields("score"), *beside])


def embedded() -> pa.StructType:
    """Type of an embedded sample: what is known of it, and the embeddings of its image and its caption."""
    return pa.struct([*KNOWN, *fields("score", "embed")])


def facts() -> frozenset[str]:
    """Names of all columns that are no signals."""
    return frozenset(BY_NAME)
