"""What attacks show beside their scores: of each sample the closest answer and the descriptors of all, committed with its unit.

A file ``exhibits/<split>/<shard>-<unit>.parquet`` appears before the scores whose existence is the commit, so that what is
scored is shown; what stands there of units that are not committed counts for nothing.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymia.errors import first_line
from raymia.run.columns import named
from raymia.run.exhibits import FOLDER
from raymia.run.files import UNIT_ENDING, DamagedRunError
from raymia.run.ledger import Ledger

COLUMN = "shown"
"""Column of a scored sample on its way that holds what is shown of it; no scores file has it."""
ITEM = pa.struct(
    [
        ("attack", pa.string()),
        ("draw", pa.int64()),
        ("seed", pa.int64()),
        ("steps", pa.int64()),
        ("guidance", pa.float64()),
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("similarity", pa.float64()),
        ("within_work", pa.string()),
        ("within_work_similarity", pa.float64()),
        ("within_image", pa.string()),
        ("within_image_similarity", pa.float64()),
        ("work", pa.list_(pa.float32())),
        ("answers", pa.list_(pa.list_(pa.float32()))),
        ("image", pa.large_binary()),
    ]
)
"""What one attack shows of one sample: number and seed of the closest answer, how it was asked for, its size as it was made,
where it matches, the descriptors of the work and of all answers, and the image as PNG where it is kept."""
FIELD = pa.field(COLUMN, pa.list_(ITEM))
PLACE = ["split", "shard", "unit", "key"]
SCHEMA = pa.schema([*named(*PLACE), *ITEM])
MOST_OF_UNIT = 64
"""Images of a unit that are kept, the most similar ones; of the others everything but the image."""
LARGEST_PX = 1024
"""Longer side of an image that is kept; a larger one is made smaller."""
MAX_FILE_BYTES = 2**30
"""A file of more is none that raymia wrote."""

Identity = tuple[str, str, str]
"""Split, shard and key of a sample."""


def shown_table(scores: pa.Table, split: str, shard: str, unit: int) -> pa.Table:
    """What is shown of the samples of a unit, by `SCHEMA`: a row for each sample and attack.

    Args:
        scores: of the unit, with `COLUMN`.
        split, shard, unit: where it belongs.
    """
    shown = scores.column(COLUMN).combine_chunks()
    keys = scores.column("key").combine_chunks().take(shown.value_parent_indices())
    items = shown.flatten()
    if len(items) > MOST_OF_UNIT:
        ranks = pc.rank(items.field("similarity"), sort_keys="descending", tiebreaker="first")
        image = pc.if_else(pc.less_equal(ranks, MOST_OF_UNIT), items.field("image"), pa.scalar(None, pa.large_binary()))
    else:
        image = items.field("image")
    columns = {"split": split, "shard": shard, "unit": unit}
    constants = [pa.array([value] * len(items), SCHEMA.field(name).type) for name, value in columns.items()]
    own = [items.field(field.name) for field in ITEM if field.name != "image"]
    return pa.Table.from_arrays([*constants, keys, *own, image], schema=SCHEMA)


def read_shown(ledger: Ledger, attack: str) -> pd.DataFrame:
    """What an attack shows of every scored sample of a run, without images: the columns of `ITEM`, split, shard, unit and key.

    Descriptors are arrays: ``work`` (width,), ``answers`` (draws, width).

    Args:
        ledger: of the run.
        attack: by the name that the job gives it.

    Raises:
        DamagedRunError: a file is not as it was written, or what is shown of a scored sample is not there.
    """
    names = [name for name in SCHEMA.names if name != "image"]
    tables = [table for _, table in _tables(ledger, names)]
    table = pa.concat_tables(tables) if tables else pa.schema([SCHEMA.field(name) for name in names]).empty_table()
    found = table.filter(pc.equal(table.column("attack"), attack)).to_pandas()
    scored = ledger.scores(PLACE).to_pandas()
    rows = scored.merge(found.drop_duplicates(PLACE, keep=False), on=PLACE, how="left", validate="one_to_one")
    lost = rows[rows["attack"].isna()]
    if len(lost):
        first = lost.iloc[0]
        raise DamagedRunError(
            f"{ledger.run}/{FOLDER}: nothing is shown of {len(lost)} of {len(rows)} scored samples, such as "
            f"{first['split']}/{first['shard']}/{first['key']}; choose another run directory and scan again"
        )
    try:
        works = np.stack([np.asarray(one, np.float64) for one in rows["work"]])
        answers = np.stack([np.stack([np.asarray(one, np.float64) for one in all_]) for all_ in rows["answers"]])
    except ValueError as error:
        raise DamagedRunError(f"{ledger.run}/{FOLDER}: descriptors of different lengths; scan again") from error
    both = (works, answers)
    unit = all(np.isfinite(one).all() and np.allclose(np.linalg.norm(one, axis=-1), 1.0, atol=1e-2) for one in both)
    if answers.shape[-1:] != works.shape[-1:] or not unit:
        raise DamagedRunError(f"{ledger.run}/{FOLDER}: descriptors that are none; scan again")
    read: pd.DataFrame = rows.assign(work=list(works), answers=list(answers))
    return read


def read_images(ledger: Ledger, attack: str, wanted: Collection[Identity]) -> dict[Identity, bytes]:
    """The images that an attack shows of some samples, as PNG that is not trusted; those that are not kept are left out.

    Args:
        ledger: of the run.
        attack: by the name that the job gives it.
        wanted: the samples.

    Raises:
        DamagedRunError: a file is not as it was written.
    """
    shards = {(split, shard) for split, shard, _ in wanted}
    found: dict[Identity, bytes] = {}
    names = ["split", "shard", "key", "attack", "image"]
    for _, table in _tables(ledger, names, lambda name: any(name.startswith(f"{FOLDER}/{s}/{one}-") for s, one in shards)):
        for split, shard, key, own, image in zip(*(table.column(name).to_pylist() for name in names), strict=True):
            if own == attack and image is not None and (split, shard, key) in wanted:
                found[split, shard, key] = image
    return found


def _tables(
    ledger: Ledger, columns: list[str], wanted: Callable[[str], bool] = lambda _: True
) -> Iterator[tuple[str, pa.Table]]:
    schema = pa.schema([SCHEMA.field(column) for column in columns])
    for name in ledger.storage.names(FOLDER, UNIT_ENDING):
        if not wanted(name):
            continue
        content = ledger.storage.read(name, MAX_FILE_BYTES)
        try:
            table = pq.read_table(io.BytesIO(content or b""), columns=columns).select(columns).cast(schema)
            table.validate(full=True)
        except Exception as error:
            problem = f"not as raymia writes what is shown ({first_line(error)})"
            raise DamagedRunError(f"{ledger.run}/{name}: {problem}; choose another run directory and scan again") from error
        yield name, table
