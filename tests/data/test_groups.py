from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator

import pytest

from raymia.data import groups
from raymia.data.groups import split_name
from raymia.data.tar import RawSample, ShardEnd, read_tar
from tests.conftest import good_members, image_bytes, tar_bytes

IMAGE = image_bytes(1)


def samples(names: list[str], wanted: Callable[[int, str], bool] = lambda *_: True) -> list[RawSample]:
    """What comes out of a tar whose texts hold their own name."""
    content = tar_bytes([(name, IMAGE if groups.EXTENSIONS.count(ending(name)) else text_of(name)) for name in names])
    *found, end = read_tar(io.BytesIO(content), wanted)
    assert isinstance(end, ShardEnd)
    assert end.fault is None
    return [item for item in found if isinstance(item, RawSample)]


def ending(name: str) -> str:
    return name.rpartition(".")[2].lower()


def text_of(name: str) -> bytes:
    return b'{"caption": "%s"}' % name.encode() if ending(name) == "json" else name.encode()


def outline(names: list[str]) -> list[tuple[str, str, str | None]]:
    return [(s.key, s.caption, s.fault.reason if s.fault else None) for s in samples(names)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0001.seg.PNG", ("0001", "seg.png")),
        ("a.Left.JPG", ("a", "Left.jpg")),
        ("d/x.JPG", ("d/x", "jpg")),
        ("dir.v1/0001.jpg", ("dir.v1/0001", "jpg")),
        ("./k.png", ("k", "png")),
        ("dir.v1/noext", ("dir.v1/noext", "")),
        (".h", (".h", "")),
        ("d/.h.seg.jpg", ("d/.h", "seg.jpg")),
        ("...", ("...", "")),
        ("", ("", "")),
        ("a\udcff.jpg", ("a\\udcff", "jpg")),
    ],
)
def test_names_are_cut_at_the_first_dot_of_the_base_name(name: str, expected: tuple[str, str]) -> None:
    assert split_name(name) == expected


@pytest.mark.parametrize(
    "names",
    [
        ["0001.jpg", "0001.seg.png", "0001.txt"],
        ["0001.depth.png", "0001.jpg", "0001.seg.0.png", "0001.txt"],
        ["0001.seg.png", "0001.txt", "0001.SEG.2.PNG", "0001.JPG"],
        ["0001.json", "0001.seg.txt", "0001.txt", "0001.webp", "0001.seg.webp"],
    ],
)
def test_an_image_with_a_plain_extension_makes_the_whole_group_one_sample(names: list[str]) -> None:
    (sample,) = samples(names)
    assert (sample.index, sample.key, sample.caption, sample.fault, sample.flags) == (0, "0001", "0001.txt", None, ())


def test_keys_with_dots_are_samples_of_their_own_with_their_own_captions() -> None:
    assert outline(["a.b.jpg", "a.b.txt", "a.c.jpg", "a.c.json", "a.d.e.JPG"]) == [
        ("a.b", "a.b.txt", None),
        ("a.c", "a.c.json", None),
        ("a.d.e", "", None),
    ]


def test_keys_with_dots_need_not_stand_one_after_another() -> None:
    assert outline(["a.b.jpg", "a.c.jpg", "a.b.txt", "a.c.txt"]) == [("a.b", "a.b.txt", None), ("a.c", "a.c.txt", None)]


def test_keys_with_dots_that_differ_in_case_are_not_mixed_up() -> None:
    assert outline(["a.b.jpg", "a.b.txt", "a.B.jpg", "a.B.txt"]) == [("a.b", "a.b.txt", None), ("a.B", "a.B.txt", None)]


def test_a_caption_of_the_group_is_that_of_every_sample_without_one() -> None:
    names = ["0001.cls", "0001.left.jpg", "0001.right.jpg", "0001.right.json", "0001.txt"]
    assert outline(names) == [("0001.left", "0001.txt", None), ("0001.right", "0001.right.json", None)]


def test_a_dotted_key_without_image_beside_others_is_told() -> None:
    assert outline(["a.b.jpg", "a.c.txt", "a.d.psd"])[1:] == [("a.c", "a.c.txt", "no_image"), ("a.d", "", "no_image")]


def test_a_group_without_any_image_is_one_sample_without_image() -> None:
    assert outline(["a.b.txt", "a.txt", "a.c.npy", "b.jpg"]) == [("a", "a.txt", "no_image"), ("b", "", None)]


def test_a_repeated_extension_begins_a_duplicate_of_what_stood_before() -> None:
    assert outline(["a.jpg", "a.seg.png", "a.seg.png", "a.txt"]) == [("a", "", None), ("a", "a.txt", "duplicate_key")]
    assert outline(["a.b.jpg", "a.c.jpg", "a.b.JPG", "a.b.txt"]) == [
        ("a.b", "", None),
        ("a.c", "", None),
        ("a.b", "a.b.txt", "duplicate_key"),
    ]


def test_several_plain_images_are_flagged_and_longer_extensions_are_not() -> None:
    (sample,) = samples(["a.jpg", "a.seg.png", "a.png", "a.txt"])
    assert sample.flags == ("several_images",)
    (sample,) = samples(["a.b.jpg", "a.b.png", "a.b.txt"])
    assert (sample.key, sample.flags) == ("a.b", ("several_images",))


def test_hidden_files_are_accounted_for_under_their_own_key() -> None:
    assert [s.key for s in samples([".0001.jpg", "0001.jpg", "dir.v1/.x.jpg", "dir.v1/y.jpg"])] == [
        ".0001",
        "0001",
        "dir.v1/.x",
        "dir.v1/y",
    ]


def test_the_predicate_is_asked_once_per_sample_in_order_without_gaps() -> None:
    asked = []

    def wanted(index: int, key: str) -> bool:
        asked.append((index, key))
        return index % 2 == 1

    found = samples(["a.b.jpg", "a.c.jpg", "b.seg.png", "b.jpg", "c.txt", "d.x.txt", "d.y.jpg"], wanted)
    assert asked == list(enumerate(["a.b", "a.c", "b", "c", "d.x", "d.y"]))
    assert [(s.index, s.key) for s in found] == [(1, "a.c"), (3, "c"), (5, "d.y")]


class Watched(io.BytesIO):
    """Remembers where it was read."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.reads: list[tuple[int, int]] = []

    def read(self, size: int | None = -1, /) -> bytes:
        start = self.tell()
        content = super().read(size)
        self.reads.append((start, start + len(content)))
        return content


def contents(content: bytes) -> Iterator[tuple[str, int, int]]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for member in tar:
            yield member.name, member.offset_data, member.offset_data + member.size


@pytest.mark.parametrize("wanted", ["b", "a.c", "none"])
def test_the_content_of_samples_that_are_not_wanted_is_never_read(wanted: str) -> None:
    names = ["a.b.jpg", "a.b.txt", "a.c.jpg", "a.txt", "b.txt", "b.seg.png", "b.jpg"]
    needed = {"b": {"b.txt", "b.jpg"}, "a.c": {"a.c.jpg", "a.txt"}, "none": set[str]()}[wanted]
    content = tar_bytes([(name, IMAGE) for name in names])
    stream = Watched(content)
    list(read_tar(stream, lambda _, key: key == wanted))
    read = {name for name, start, end in contents(content) for a, b in stream.reads if a < end and b > start}
    assert read == needed


def test_where_the_image_comes_first_nothing_is_read_by_going_back() -> None:
    stream = Watched(tar_bytes(good_members(6)))
    assert len(list(read_tar(stream))) == 7
    starts = [start for start, _ in stream.reads]
    assert starts == sorted(starts)


def test_a_group_too_large_to_be_held_is_read_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"img.{i:03d}.{kind}" for i in range(50) for kind in ("jpg", "txt")]
    whole = outline(names)
    assert [key for key, _, _ in whole] == [f"img.{i:03d}" for i in range(50)]
    for limit in (7, 8):
        monkeypatch.setattr(groups, "MAX_HELD", limit)
        assert outline([*names, "img.txt"]) == [*whole, ("img", "img.txt", "no_image")]
        content = tar_bytes([(name, IMAGE) for name in names])
        stream = Watched(content)
        next(read_tar(stream))
        assert max(end for _, end in stream.reads) < len(content) / 4
    frames = [f"a.frame{i}.npy" for i in range(50)]
    assert outline([*frames, "a.jpg", "a.mask.png", *frames[10:], "a.txt"]) == [("a", "a.txt", None)]


def test_a_tar_that_breaks_off_in_a_group_of_several_keeps_what_is_whole() -> None:
    content = tar_bytes([(f"a.{c}.{kind}", IMAGE) for c in "bcd" for kind in ("jpg", "cls")])
    places = {name: (start, end) for name, start, end in contents(content)}
    for cut in (places["a.d.jpg"][0] + 100, places["a.d.jpg"][1] + 600, places["a.d.cls"][0] + 5):
        *found, end = read_tar(io.BytesIO(content[:cut]))
        assert isinstance(end, ShardEnd)
        assert end.samples == 3
        assert end.fault is not None
        assert end.fault.reason == "truncated_shard"
        assert [s.fault.reason if s.fault else None for s in found if isinstance(s, RawSample)] == [
            None,
            None,
            "truncated_sample",
        ]


def test_a_sample_that_loses_its_image_to_the_end_of_the_tar_is_truncated() -> None:
    content = tar_bytes([("a.json", b"{}"), ("a.png", IMAGE)])
    (_, _, _), (_, start, _) = contents(content)
    for cut in (start - 600, start - 400, start + 100):
        *found, _ = read_tar(io.BytesIO(content[:cut]))
        assert [s.fault.reason for s in found if isinstance(s, RawSample) and s.fault] == ["truncated_sample"]


class Failing(io.BytesIO):
    """Storage that is gone after so many reads."""

    def __init__(self, content: bytes, reads: int) -> None:
        super().__init__(content)
        self.left = reads

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise OSError("gone")
        return super().read(size)


def test_storage_that_fails_at_any_read_is_a_fault_and_every_sample_found_is_accounted_for() -> None:
    content = tar_bytes([(name, IMAGE) for name in ("a.b.jpg", "a.c.jpg", "a.txt", "b.json", "b.jpg", "c.jpg")])
    for reads in range(12):
        *found, end = read_tar(Failing(content, reads))
        assert isinstance(end, ShardEnd)
        assert end.fault is not None
        assert end.fault.reason == "unreadable_shard"
        assert len(found) == end.samples
        assert not any(s.fault and s.fault.reason == "no_image" for s in found if isinstance(s, RawSample))
