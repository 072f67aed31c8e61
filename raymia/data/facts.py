"""What a data set says about its samples without any model: caption, size and image statistics."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from raymia.data.images import MAX_PIXELS, ImageError, decode_image
from raymia.data.selection import ShardReader
from raymia.data.statistics import image_statistics
from raymia.data.tar import RawSample

STATISTICS_RESOLUTION_PX = 256
"""Side that images are resized to before their statistics are taken."""


@dataclass
class ShardFacts:
    """The readable samples of a shard, and how many could not be read, by reason."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """One row per sample: split, shard, member, key, caption, width, height, jpeg_bytes and the image statistics."""
    reasons: Counter[str] = field(default_factory=Counter)
    """How many samples could not be read, by reason."""


def shard_facts(reader: ShardReader) -> ShardFacts:
    """Read one shard to its end, and take the facts of each of its samples that count."""
    facts, shard = ShardFacts(), reader.shard
    for item in reader.read():
        if item.fault is not None:
            facts.reasons[item.fault.reason] += 1
        elif isinstance(item, RawSample):
            try:
                of_sample = _sample_facts(item)
            except ImageError as error:
                facts.reasons[error.reason] += 1
            else:
                facts.rows.append({"split": shard.split, "shard": shard.name, "member": shard.member, **of_sample})
    return facts


def read_facts(readers: Sequence[ShardReader]) -> Iterator[ShardFacts]:
    """The facts of every shard, in order, read by as many processes as there are cores."""
    workers = min(len(readers), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(shard_facts, readers)


def _sample_facts(sample: RawSample) -> dict[str, Any]:
    content = sample.image or b""
    image = decode_image(content, STATISTICS_RESOLUTION_PX, MAX_PIXELS)
    size = {"width": image.width, "height": image.height, "jpeg_bytes": len(content)}
    return {"key": sample.key, "caption": sample.caption, **size, **image_statistics(image.pixels)}
