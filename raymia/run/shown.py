"""What attacks show beside scores: of each sample the closest answer, and the descriptors of all, committed with its unit.

A file ``exhibits/<split>/<shard>-<unit>.parquet`` appears before the scores whose existence is the commit, so that what is
scored is shown; what stands there of units that are not committed counts for nothing.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymia.errors import first_line
from raymia.run.columns import named
from raymia.run.files import EXHIBITS, UNIT_ENDING, DamagedRunError
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
        ("answer", pa.string()),
    ]
)
"""What one attack shows of one sample: number and seed of the closest answer, how it was asked for, its size as it was made,
where it matches and the descriptors of the work and of all answers where the attack has them, the image as PNG where it is
kept, and the sha256 of a service's answer, by which it lies among the answers."""
LATER = ("answer",)
"""Columns that earlier versions did not write."""
FIELD = pa.field(COLUMN, pa.list_(ITEM))
PLACE = ["split", "shard", "unit", "key"]
SCHEMA = pa.schema([*named(*PLACE), *ITEM])
MOST_OF_UNIT = 16
"""Images of a unit that are kept of each attack, the most similar ones; of the others everything but the image."""
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
    kept = most_similar(items.field("attack").to_pylist(), items.field("similarity").to_pylist())
    image = pc.if_else(pa.array(kept, pa.bool_()), items.field("image"), pa.scalar(None, pa.large_binary()))
    columns = {"split": split, "shard": shard, "unit": unit}
    constants = [pa.array([value] * len(items), SCHEMA.field(name).type) for name, value in columns.items()]
    own = [image if field.name == "image" else items.field(field.name) for field in ITEM]
    return pa.Table.from_arrays([*constants, keys, *own], schema=SCHEMA)


def most_similar(attacks: Collection[str], similarities: Collection[float]) -> list[bool]:
    """Which of what attacks show of samples are among the `MOST_OF_UNIT` most similar of their attack, the first of ties."""
    shown = pd.DataFrame({"attack": list(attacks), "similarity": np.array(list(similarities), float)})
    ranks = shown.groupby("attack")["similarity"].rank(method="first", ascending=False)
    return [bool(rank <= MOST_OF_UNIT) for rank in ranks]


def read_shown(ledger: Ledger, attack: str) -> pd.DataFrame:
    """What an attack shows of every scored sample of a run, without images: the columns of `ITEM`, split, shard, unit and key.

    Descriptors are arrays: ``work`` (width,), ``answers`` (draws, width).

    Args:
        ledger: of the run.
        attack: by the name that the job gives it.

    Raises:
        DamagedRunError: a file is not as it was written, or what is shown of a scored sample is not there.
    """
    found = _of_attack(ledger, attack, [name for name in SCHEMA.names if name != "image"])
    scored = ledger.scores(PLACE).to_pandas()
    rows = scored.merge(found.drop_duplicates(PLACE, keep=False), on=PLACE, how="left", validate="one_to_one")
    lost = rows[rows["attack"].isna()]
    if len(lost):
        first = lost.iloc[0]
        raise DamagedRunError(
            f"{ledger.run}/{EXHIBITS}: nothing is shown of {len(lost)} of {len(rows)} scored samples, such as "
            f"{first['split']}/{first['shard']}/{first['key']}; choose another run directory and scan again"
        )
    try:
        works = np.stack([np.asarray(one, np.float64) for one in rows["work"]])
        answers = np.stack([np.stack([np.asarray(one, np.float64) for one in all_]) for all_ in rows["answers"]])
    except (TypeError, ValueError) as error:
        raise DamagedRunError(f"{ledger.run}/{EXHIBITS}: descriptors of different lengths; scan again") from error
    both = (works, answers)
    unit = all(np.isfinite(one).all() and np.allclose(np.linalg.norm(one, axis=-1), 1.0, atol=1e-2) for one in both)
    if answers.shape[-1:] != works.shape[-1:] or not unit:
        raise DamagedRunError(f"{ledger.run}/{EXHIBITS}: descriptors that are none; scan again")
    read: pd.DataFrame = rows.assign(work=list(works), answers=list(answers))
    return read


@dataclass(frozen=True)
class Exhibit:
    """A work, and the closest image that its caption brought forth.

    Attributes:
        split, shard, key: of the work.
        draw: number of the image among those that were asked for.
        seed: that was given with it; none where a service takes none.
        similarity: of the work and the image, by the attack's own measure.
        answer: sha256 of the image's bytes as a service sent them, by which it lies among the answers.
        image: as PNG, not trusted; none where it is not kept.
    """

    split: str
    shard: str
    key: str
    draw: int
    seed: int | None
    similarity: float
    answer: str | None
    image: bytes | None


def exhibits_of(ledger: Ledger, attack: str, most: int) -> list[Exhibit]:
    """What an attack shows of the scored samples whose images are most similar, the highest first; nothing where it shows none.

    Args:
        ledger: of the run.
        attack: by the name that the job gives it.
        most: how many at most, and at most as many as are kept of a unit.

    Raises:
        DamagedRunError: a file is not as it was written.
    """
    found = _of_attack(ledger, attack, [*PLACE, "attack", "draw", "seed", "similarity", "answer"])
    if not len(found):
        return []
    rows = found.drop_duplicates(PLACE, keep=False).merge(ledger.scores(PLACE).to_pandas(), on=PLACE)
    order = ["similarity", "split", "shard", "key"]
    rows = rows.sort_values(order, ascending=[False, True, True, True]).head(most).astype(object)
    chosen = rows.where(rows.notna(), None).to_dict("records")
    images = read_images(ledger, attack, {(row["split"], row["shard"], row["key"]) for row in chosen})
    return [
        Exhibit(
            **{name: row[name] for name in ("split", "shard", "key", "similarity", "answer")},
            draw=int(row["draw"]),
            seed=None if row["seed"] is None else int(row["seed"]),
            image=images.get((row["split"], row["shard"], row["key"])),
        )
        for row in chosen
    ]


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
    for _, table in _tables(ledger, names, lambda name: any(name.startswith(f"{EXHIBITS}/{s}/{one}-") for s, one in shards)):
        for split, shard, key, own, image in zip(*(table.column(name).to_pylist() for name in names), strict=True):
            if own == attack and image is not None and (split, shard, key) in wanted:
                found[split, shard, key] = image
    return found


def _of_attack(ledger: Ledger, attack: str, columns: list[str]) -> pd.DataFrame:
    """These columns of what an attack shows, committed or not; whole numbers keep their digits where some are absent."""
    tables = [table for _, table in _tables(ledger, columns)]
    table = pa.concat_tables(tables) if tables else pa.schema([SCHEMA.field(name) for name in columns]).empty_table()
    found: pd.DataFrame = table.filter(pc.equal(table.column("attack"), attack)).to_pandas(integer_object_nulls=True)
    return found


def _tables(
    ledger: Ledger, columns: list[str], wanted: Callable[[str], bool] = lambda _: True
) -> Iterator[tuple[str, pa.Table]]:
    schema = pa.schema([SCHEMA.field(column) for column in columns])
    for name in ledger.storage.names(EXHIBITS, UNIT_ENDING):
        if not wanted(name):
            continue
        content = ledger.storage.read(name, MAX_FILE_BYTES)
        try:
            written = pq.ParquetFile(io.BytesIO(content or b""))
            lacking = [column for column in columns if column in LATER and column not in written.schema_arrow.names]
            table = written.read([column for column in columns if column not in lacking])
            for column in lacking:
                table = table.append_column(SCHEMA.field(column), pa.nulls(len(table), SCHEMA.field(column).type))
            table = table.select(columns).cast(schema)
            table.validate(full=True)
        except Exception as error:
            problem = f"not as raymia writes what is shown ({first_line(error)})"
            raise DamagedRunError(f"{ledger.run}/{name}: {problem}; choose another run directory and scan again") from error
        yield name, table
