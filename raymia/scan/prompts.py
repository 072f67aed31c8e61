"""The list of images that a person is to make by hand, for the service `folder`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from pydantic import BaseModel

from raymia.config import Job
from raymia.data.manifest import load_manifest
from raymia.data.prompts import Prompts
from raymia.data.tar import RawSample
from raymia.errors import ConfigError
from raymia.run.storage import Storage
from raymia.scan.asked import queries_of
from raymia.scan.cost import SIDE_PX
from raymia.scan.plan import make_readers
from raymia.services.folder import LIST, Folder, made_in, name_of
from raymia.services.protocol import Query
from raymia.spreadsheet import csv_text

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
    """Write the list of a job's images into the folder that it names; names of files are the same every time.

    Raises:
        ConfigError: the job attacks something else.
    """
    service = job.hosted
    if not isinstance(service, Folder):
        raise ConfigError("replica: the job asks no folder; set replica: {service: folder, path: FOLDER}")
    rows: list[dict[str, object]] = []
    taken: dict[str, str] = {}
    for query in _queries(job):
        identity = name_of(query.key, query.prompt, query.draw)
        if identity in taken:
            continue
        taken[identity] = file = _file_name(query, set(taken.values()))
        rows.append({"file": file, "key": query.key, "draw": query.draw, "prompt": query.prompt, "id": identity})
    folder = Path(service.path).expanduser()
    Storage(str(folder)).write(LIST, csv_text(pd.DataFrame(rows)).encode())
    made = sum(made_in(folder, name) is not None for name in taken.values())
    return Listed(file=str(folder / LIST), images=len(rows), made=made)


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


def _file_name(query: Query, taken: set[str]) -> str:
    """KEY.DRAW.png; where the key stands for another prompt already, KEY-2.DRAW.png."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", query.key)[:LONGEST_NAME] or "_"
    number = 1
    while (name := f"{stem}{f'-{number}' if number > 1 else ''}.{query.draw}.png") in taken:
        number += 1
    return name
