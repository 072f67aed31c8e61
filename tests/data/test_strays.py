from __future__ import annotations

import io
import random
from collections.abc import Iterable

import pytest

from raymia.data.members import SHARD_LIMITS, ReadLimits
from raymia.data.strays import completes, unfinished
from raymia.data.tar import RawSample, ShardEnd, read_tar
from tests.conftest import image_bytes, tar_bytes

IMAGE = image_bytes(1)
Outline = list[tuple[int, str, str, str | None]]


def content_of(names: Iterable[str]) -> bytes:
    """A tar whose texts hold their own name."""
    members = []
    for name in names:
        text = b'{"caption": "%s"}' % name.encode() if name.endswith("json") else name.encode()
        members.append((name, text if name.endswith(("txt", "json", "cls")) else IMAGE))
    return tar_bytes(members)


def outline(names: Iterable[str], limits: ReadLimits = SHARD_LIMITS) -> tuple[Outline, ShardEnd]:
    *found, end = read_tar(io.BytesIO(content_of(names)), limits=limits)
    assert isinstance(end, ShardEnd)
    return [(s.index, s.key, s.caption, s.fault.reason if s.fault else None) for s in found if isinstance(s, RawSample)], end


def sorted_outline(keys: Iterable[str]) -> Outline:
    return [(i, key, f"{key}.txt", None) for i, key in enumerate(keys)]


KEYS = ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    "names",
    [
        [f"{key}.{ending}" for ending in ("jpg", "txt") for key in KEYS],
        [f"{key}.{ending}" for ending in ("txt", "jpg") for key in KEYS],
        [f"{key}.{ending}" for ending in ("jpg", "json", "txt") for key in KEYS],
        [f"{key}.{ending}" for ending in ("cls", "seg.png", "jpg", "txt") for key in KEYS],
        [*(f"{key}.jpg" for key in KEYS), *(f"{key}.txt" for key in reversed(KEYS))],
        ["a.jpg", "b.jpg", "a.txt", "c.jpg", "b.txt", "d.jpg", "c.txt", "d.txt"],
        ["a.jpg", "a.txt", "b.jpg", "c.jpg", "c.txt", "d.txt", "d.jpg", "b.txt"],
    ],
)
def test_members_that_stand_apart_are_joined(names: list[str]) -> None:
    found, end = outline(names)
    assert found == sorted_outline(KEYS)
    assert end.fault is None


def test_whatever_the_order_the_samples_are_those_of_the_sorted_tar() -> None:
    chosen = random.Random(1)  # noqa: S311 - any numbers do
    names = [f"{key}.{ending}" for key in "abcdefgh" for ending in ("jpg", "txt")]
    for _ in range(30):
        chosen.shuffle(names)
        found, end = outline(names)
        assert end.fault is None
        assert sorted((key, caption, fault) for _, key, caption, fault in found) == [(k, f"{k}.txt", None) for k in "abcdefgh"]
        assert [index for index, *_ in found] == list(range(8))


def test_keys_with_dots_are_joined_too() -> None:
    names = [f"{key}.{part}.{ending}" for ending in ("jpg", "txt") for key in "ab" for part in ("x", "y")]
    found, end = outline(names)
    assert found == sorted_outline(["a.x", "a.y", "b.x", "b.y"])
    assert end.fault is None


def test_masks_that_come_after_all_images_are_no_samples() -> None:
    names = [f"{key}.{ending}" for ending in ("jpg", "seg.png", "txt") for key in KEYS]
    assert outline(names)[0] == sorted_outline(KEYS)
    whole = [f"{key}.{ending}" for key in KEYS for ending in ("jpg", "txt")] + [f"{key}.seg.png" for key in KEYS]
    assert [fault for *_, fault in outline(whole)[0]] == [None] * 4 + ["duplicate_key"] * 4


def test_a_sample_that_repeats_another_is_not_joined_to_it() -> None:
    for second in (["a.jpg", "a.txt"], ["a.png", "a.txt"], ["a.jpg"]):
        found, _ = outline(["a.jpg", "b.jpg", "b.txt", *second])
        assert [(key, fault) for _, key, _, fault in found] == [("a", None), ("b", None), ("a", "duplicate_key")]
        assert found[0][2] == ""


def test_samples_without_captions_stay_as_they_are() -> None:
    found, end = outline(f"{key}.jpg" for key in KEYS)
    assert found == [(i, key, "", None) for i, key in enumerate(KEYS)]
    assert end.fault is None


LIMITS = ReadLimits(max_joined_members=5)


def test_a_shard_too_large_to_be_joined_says_that_it_must_be_sorted_and_scores_nothing_without_its_caption() -> None:
    names = ["x.jpg", "x.txt", *(f"{i}.{ending}" for ending in ("jpg", "txt") for i in range(5))]
    found, end = outline(names, LIMITS)
    assert found == [(0, "x", "x.txt", None), (1, "0", "", "truncated_sample")]
    assert end.fault is not None
    assert end.fault.reason == "not_sorted"
    assert "sort the tar" in end.fault.detail
    assert end.bytes_reached < len(content_of(names)) / 2


def test_a_shard_too_large_to_be_joined_need_not_be_where_all_stands_together() -> None:
    names = [*(f"{i}.jpg" for i in range(20)), "y.jpg", "y.txt", "z.txt"]
    found, end = outline(names, LIMITS)
    assert end.fault is None
    assert len(found) == 22
    assert outline(names)[0] == found


def test_long_names_count_for_more() -> None:
    names = [f"{key}{'n' * 900}.{ending}" for ending in ("jpg", "txt") for key in "ab"]
    assert outline(names)[1].fault is None
    end = outline(names, LIMITS)[1]
    assert end.fault is not None
    assert end.fault.reason == "not_sorted"


@pytest.mark.parametrize("wanted", [range(2), range(1, 3), range(3, 4), range(0)])
def test_samples_have_the_same_numbers_whichever_are_wanted(wanted: range) -> None:
    content = content_of(f"{key}.{ending}" for ending in ("jpg", "txt") for key in KEYS)
    asked: list[tuple[int, str]] = []

    def ask(index: int, key: str) -> bool:
        asked.append((index, key))
        return index in wanted

    *found, end = read_tar(io.BytesIO(content), ask)
    assert asked == list(enumerate(KEYS))
    assert [(s.index, s.caption) for s in found if isinstance(s, RawSample)] == [(i, f"{KEYS[i]}.txt") for i in wanted]
    assert isinstance(end, ShardEnd)
    assert end.samples == 4


class Counting(io.BytesIO):
    """Counts the bytes that are read, and what is read twice."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.count = self.backwards = self.furthest = 0

    def read(self, size: int | None = -1, /) -> bytes:
        start = self.tell()
        content = super().read(size)
        self.count += len(content)
        self.backwards += start < self.furthest
        self.furthest = max(self.furthest, start + len(content))
        return content


def test_a_tar_in_order_is_read_once_from_start_to_end() -> None:
    stream = Counting(content_of(f"{key}.{ending}" for key in KEYS for ending in ("jpg", "txt")))
    list(read_tar(stream))
    assert stream.backwards == 0
    assert stream.count <= len(stream.getvalue())


def test_what_is_read_ahead_is_headers_and_once() -> None:
    content = content_of(f"{i}.jpg" for i in range(20))
    stream = Counting(content)
    list(read_tar(stream))
    assert stream.count <= len(content) + 20 * 512 + 2**16


class Gone(io.BytesIO):
    """A connection that breaks far into the file, once."""

    broken = False

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > len(self.getvalue()) * 0.7 and not self.broken:
            self.broken = True
            raise TimeoutError("slow")
        return super().read(size)


def test_where_what_comes_cannot_be_known_nothing_is_scored_without_it() -> None:
    *found, end = read_tar(Gone(content_of(f"{key}.{ending}" for ending in ("jpg", "txt") for key in KEYS)))
    assert isinstance(end, ShardEnd)
    assert end.fault is not None
    assert end.fault.reason == "unreadable_shard"
    assert [s.fault.reason for s in found if isinstance(s, RawSample) and s.fault] == ["truncated_sample"]


def test_of_an_unsorted_tar_that_is_cut_what_is_whole_is_kept_and_nothing_is_scored_without_its_caption() -> None:
    content = content_of(f"{key}.{ending}" for ending in ("jpg", "txt") for key in KEYS)
    *found, end = read_tar(io.BytesIO(content[: content.index(b"c.txt") + 100]))
    assert isinstance(end, ShardEnd)
    assert end.fault is not None
    assert end.fault.reason == "truncated_shard"
    told = [(s.key, s.caption, s.fault.reason if s.fault else None) for s in found if isinstance(s, RawSample)]
    cut = "truncated_sample"
    assert told == [("a", "a.txt", None), ("b", "b.txt", None), ("c", "", cut), ("d", "", cut)]


@pytest.mark.parametrize(
    ("extensions", "lacks"),
    [
        (["jpg", "txt"], False),
        (["jpg", "json", "cls"], False),
        (["jpg"], True),
        (["txt"], True),
        (["jpg", "seg.txt"], True),
        (["b.jpg", "b.txt", "c.jpg"], True),
        (["b.jpg", "b.txt", "c.jpg", "c.json"], False),
        (["b.jpg", "c.jpg", "txt"], False),
        ([], True),
    ],
)
def test_a_group_lacks_an_image_or_a_text_for_one(extensions: list[str], lacks: bool) -> None:
    assert unfinished(extensions) == lacks


@pytest.mark.parametrize(
    ("have", "more", "joined"),
    [
        (["jpg"], ["txt"], True),
        (["jpg"], ["seg.png"], True),
        (["jpg"], ["png"], False),
        (["jpg"], ["jpg", "txt"], False),
        (["txt"], ["jpg"], True),
        (["b.jpg"], ["c.jpg", "c.txt"], True),
    ],
)
def test_what_repeats_a_group_is_no_part_of_it(have: list[str], more: list[str], joined: bool) -> None:
    assert completes(have, more) == joined
