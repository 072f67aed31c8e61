"""Prompts: the text given to the model with each image, its own caption or, as controls, another image's or none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from raymia.data.selection import ShardReader
from raymia.data.tar import RawSample

PromptOf = Callable[[RawSample], str | None]
"""The prompt of a sample; none where it is the sample's own caption."""


@dataclass(frozen=True)
class Prompts:
    """The rule that gives each sample its prompt.

    Attributes:
        source: ``own`` caption, captions ``shuffled`` within the shard, or ``empty``.
        seed: seed of the shuffling.
    """

    source: Literal["own", "shuffled", "empty"]
    seed: int

    def of_shard(self, reader: ShardReader) -> PromptOf:
        """Prompts for the samples of one shard; shuffling reads its captions first."""
        if self.source == "own":
            return lambda _: None
        if self.source == "empty":
            return lambda _: ""
        shuffled = shuffled_captions(reader, self.seed)
        return lambda sample: shuffled.get(sample.index, "")


def shuffled_captions(reader: ShardReader, seed: int) -> dict[int, str]:
    """The caption of another sample by sample index, a function of the shard's contents and the seed alone.

    Samples stand in a random circle, and each is given the caption of the one before: none keeps its own, and every
    caption is used once.
    """
    items = reader.read(with_images=False)
    captions = {item.index: item.caption for item in items if isinstance(item, RawSample)}
    shard = reader.shard
    name = hashlib.sha256(f"{seed}\0{shard.split}\0{shard.name}".encode()).digest()[:8]
    circle = np.random.default_rng(int.from_bytes(name, "big")).permutation(sorted(captions))
    return {int(index): captions[int(before)] for index, before in zip(circle, np.roll(circle, 1), strict=True)}
