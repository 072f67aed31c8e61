"""The list of images that a person is to make by hand, for the service `folder`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd
import torch
from pydantic import BaseModel

from raymia.config import Job
from raymia.data.manifest import load_manifest
from raymia.data.prompts import Prompts
from raymia.data.tables import read_table
from raymia.data.tar import RawSample
from raymia.errors import ConfigError
from raymia.run.storage import Storage
from raymia.scan.asked import queries_of
from raymia.scan.cost import SIDE_PX
from raymia.scan.plan import make_readers
from raymia.services.folder import LIST, Folder, made_in, name_of
from raymia.services.protocol import Query
from raymia.spreadsheet import csv_text

COLUMNS = ("file", "key", "draw", "prompt", "id")
LONGEST_NAME = 80
AT_ONCE = 64


class Listed(BaseModel):
    """What was written.

    Attributes:
        file: the list.
        images: that are wanted.
        made: of them, that are in the folder.
    """

    file: str
    images: int
    made: int


def write_prompts(job: Job) -> Listed:
    """Write the list of a job's images into the folder that it names.

    An image that an earlier list names keeps its file, and no other is given that file, whatever became of the data set: what a
    person made of one prompt is never taken for another. Rows of images that are wanted no more stay where the image is there.

    Raises:
        ConfigError: the job attacks something else, or what stands in the list's place is none.
    """
    service = job.hosted
    if not isinstance(service, Folder):
        raise ConfigError("replica: the job asks no folder; set replica: {service: folder, path: FOLDER}")
    before = _before(service)
    files = {str(row["id"]): str(row["file"]) for row in before}
    names = _Names(service.folder, files)
    rows: dict[str, dict[str, object]] = {}
    for query in _queries(job):
        identity = name_of(query.key, query.prompt, query.draw)
        if identity not in rows:
            file = names.file_of(query, identity)
            rows[identity] = dict(zip(COLUMNS, (file, query.key, query.draw, query.prompt, identity), strict=True))
    made = sum(made_in(service.folder, str(row["file"])) is not None for row in rows.values())
    images = len(rows)
    left = (row for row in before if row["id"] not in rows and made_in(service.folder, str(row["file"])))
    rows.update((str(row["id"]), row) for row in left)
    if not before or {identity: row["file"] for identity, row in rows.items()} != files:
        table = pd.DataFrame(list(rows.values()), columns=list(COLUMNS))
        Storage(str(service.folder)).write(LIST, csv_text(table).encode())
    return Listed(file=str(service.folder / LIST), images=images, made=made)


def _before(service: Folder) -> list[dict[str, object]]:
    """The rows of the list that is there already."""
    file = service.folder / LIST
    if not file.exists():
        return []
    try:
        service.files()
        table = read_table(str(file), COLUMNS, "replica.path:", others=False)
    except ConfigError as error:
        raise ConfigError(f"{error}. It is not written over: move it away, or name another folder") from error
    return [{str(name): cell for name, cell in row.items()} for row in table.fillna("").to_dict("records")]


class _Names:
    """Gives every key and prompt a stem of its own: KEY, or KEY-2 where KEY stands for another prompt."""

    def __init__(self, folder: Path, files: Mapping[str, str]) -> None:
        """Take what is there.

        Args:
            folder: of the images.
            files: of an earlier list, by identity; empty where there is none.
        """
        self._files = files
        self._stems: dict[tuple[str, str], str] = {}
        self._numbers: Counter[str] = Counter()
        there = [file.name for file in folder.iterdir()] if files else []
        # As file systems see them that do not tell A from a.
        self._taken = {name.split(".")[0].casefold() for name in (*files.values(), *there)}

    def file_of(self, query: Query, identity: str) -> str:
        """The file of an image, as the earlier list has it, or a new one."""
        pair = (query.key, query.prompt)
        if pair not in self._stems:
            self._stems[pair] = self._stem(query)
        return self._files.get(identity) or f"{self._stems[pair]}.{query.draw}.png"

    def _stem(self, query: Query) -> str:
        first = self._files.get(name_of(query.key, query.prompt, 0), "")
        if first.endswith(".0.png"):
            return first.removesuffix(".0.png")
        safe = re.sub(r"[^A-Za-z0-9_-]+", "_", query.key)[:LONGEST_NAME]
        # A cell that begins with a sign would be marked as text, and be no name of a file any more.
        base = safe if safe[:1] not in ("", "-") else f"_{safe}"
        while True:
            self._numbers[base.casefold()] += 1
            number = self._numbers[base.casefold()]
            stem = base if number == 1 else f"{base}-{number}"
            if stem.casefold() not in self._taken:
                self._taken.add(stem.casefold())
                return stem


def _queries(job: Job) -> Iterator[Query]:
    """Everything that the job's attacks will ask, in the order of shards, samples and draws."""
    prompts = Prompts(job.caption_source, job.seed)
    for reader in make_readers(job, *load_manifest(job.manifest)):
        prompt_of = prompts.of_shard(reader)
        held: list[tuple[str, str]] = []
        for item in reader.read(with_images=False):
            if isinstance(item, RawSample) and item.fault is None:
                own = prompt_of(item)
                held.append((item.key, item.caption if own is None else own))
            if len(held) == AT_ONCE:
                yield from _of_batch(job, held)
                held = []
        yield from _of_batch(job, held)


def _of_batch(job: Job, samples: list[tuple[str, str]]) -> Iterator[Query]:
    if not samples:
        return
    keys, captions = zip(*samples, strict=True)
    images = torch.zeros(len(keys), 3, SIDE_PX, SIDE_PX)
    asked = [list(queries) for queries in queries_of(job.attacks, images, captions, keys, job.seed)]
    for of_sample in zip(*asked, strict=True):
        yield from of_sample
