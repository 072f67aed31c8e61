from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from raymia.data.manifest import Shard
from raymia.data.prompts import Prompts, shuffled_captions
from raymia.data.selection import ShardReader
from raymia.data.tar import RawSample, read_shard
from tests.conftest import good_members

Write = Callable[[str, list[tuple[str, bytes]]], Path]


def shard_at(path: Path) -> ShardReader:
    return ShardReader(Shard(split="in", name="m", url=str(path), member=True))


def test_shuffled_captions_are_each_used_once_and_never_by_their_own_image(write_tar: Write) -> None:
    shard = shard_at(write_tar("m.tar", good_members(20)))
    shuffled = shuffled_captions(shard, seed=3)
    own = {item.index: item.caption for item in shard.read() if isinstance(item, RawSample)}
    assert sorted(shuffled.values()) == sorted(own.values())
    assert all(shuffled[index] != own[index] for index in own)
    assert shuffled == shuffled_captions(shard, seed=3)
    assert shuffled != shuffled_captions(shard, seed=4)


def test_prompts_of_each_source(write_tar: Write) -> None:
    shard = shard_at(write_tar("m.tar", good_members(3)))
    sample = next(item for item in shard.read() if isinstance(item, RawSample))
    assert Prompts("own", 0).of_shard(shard)(sample) is None
    assert Prompts("empty", 0).of_shard(shard)(sample) == ""
    assert Prompts("shuffled", 0).of_shard(shard)(sample) in ("picture number 1", "picture number 2")


def test_captions_are_read_without_the_images(write_tar: Write) -> None:
    path = write_tar("m.tar", good_members(4))
    found = [item for item in read_shard(str(path), with_images=False) if isinstance(item, RawSample)]
    assert [(item.image, item.fault) for item in found] == [(b"", None)] * 4
    assert found[2].caption == "picture number 2"
