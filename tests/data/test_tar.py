from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raymia.data.members import ReadLimits
from raymia.data.remote import UnreadableError
from raymia.data.tar import RETRIED, Fault, RawSample, ShardEnd, read_shard
from tests.conftest import good_members, image_bytes, tar_bytes

Write = Callable[[str, list[tuple[str, bytes]]], Path]


def read(path: Path) -> tuple[list[RawSample], ShardEnd]:
    *samples, end = read_shard(str(path))
    assert isinstance(end, ShardEnd)
    return [sample for sample in samples if isinstance(sample, RawSample)], end


def test_every_sample_of_a_good_tar_comes_out_whole(write_tar: Write) -> None:
    samples, end = read(write_tar("a.tar", good_members(5)))
    assert [s.key for s in samples] == [f"{i:04d}" for i in range(5)]
    assert [s.index for s in samples] == list(range(5))
    assert samples[3].image == image_bytes(3)
    assert samples[3].caption == "picture number 3"
    assert end == ShardEnd(5, end.bytes_reached, None)


def test_keys_with_dots_stay_apart_and_extensions_match_in_any_case(write_tar: Write) -> None:
    members = [
        (f"a.{c}.{e}", image_bytes(i)) for i, (c, e) in enumerate([("b", "JPG"), ("c", "jpeg"), ("d", "Png"), ("e", "WEBP")])
    ]
    samples, _ = read(write_tar("a.tar", members))
    assert [s.key for s in samples] == ["a.b", "a.c", "a.d", "a.e"]
    assert all(s.image for s in samples)


def test_a_truncated_tar_gives_its_readable_part_and_the_bytes_reached(tmp_path: Path) -> None:
    content = tar_bytes(good_members(6))
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        cut = tar.getmember("0004.jpg").offset_data + 100
    (tmp_path / "cut.tar").write_bytes(content[:cut])
    samples, end = read(tmp_path / "cut.tar")
    assert [s.key for s in samples if s.fault is None] == ["0000", "0001", "0002", "0003"]
    assert [s.fault.reason for s in samples if s.fault] == ["truncated_sample"]
    assert end.fault is not None
    assert end.fault.reason == "truncated_shard"
    assert 0 < end.bytes_reached <= cut


def test_a_tar_cut_between_members_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    content = tar_bytes(good_members(4))
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        cut = tar.getmember("0003.jpg").offset
    (tmp_path / "cut.tar").write_bytes(content[:cut])
    samples, end = read(tmp_path / "cut.tar")
    assert [s.key for s in samples] == ["0000", "0001", "0002"]
    assert end.fault is not None
    assert "no end-of-archive mark" in end.fault.detail


def test_a_damaged_header_ends_the_shard_with_a_reason(tmp_path: Path) -> None:
    content = bytearray(tar_bytes(good_members(4)))
    with tarfile.open(fileobj=io.BytesIO(bytes(content))) as tar:
        offset = tar.getmember("0002.jpg").offset
    content[offset : offset + 512] = b"\xff" * 512
    (tmp_path / "bad.tar").write_bytes(content)
    samples, end = read(tmp_path / "bad.tar")
    assert len(samples) == 2
    assert end.fault is not None
    assert end.fault.reason == "corrupt_shard"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty_shard"), (b"no tar" * 300, "not_a_tar"), (b"x", "not_a_tar"), (b"\0" * 10240, "empty_shard")],
)
def test_what_is_no_tar_with_samples_gives_a_shard_fault(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    samples, end = read(tmp_path / "x.tar")
    assert samples == []
    assert end.fault is not None
    assert end.fault.reason == reason


def test_a_missing_or_unreadable_shard_gives_a_shard_fault(tmp_path: Path) -> None:
    reasons = [read(path)[1].fault for path in (tmp_path / "gone.tar", tmp_path)]
    assert [fault.reason for fault in reasons if fault] == ["missing_shard", "unreadable_shard"]


def test_a_repeated_key_keeps_the_first_sample(write_tar: Write) -> None:
    samples, end = read(write_tar("a.tar", [*good_members(2), *good_members(1)]))
    assert [s.fault.reason if s.fault else None for s in samples] == [None, None, "duplicate_key"]
    assert end.samples == 3


def test_a_sample_without_image_has_a_fault(write_tar: Write) -> None:
    samples, _ = read(write_tar("a.tar", [("a.txt", b"alone"), ("b.psd", b"8BPS")]))
    assert [s.fault.reason for s in samples if s.fault] == ["no_image", "no_image"]


def test_captions_come_from_txt_then_json_and_defects_are_flagged(write_tar: Write) -> None:
    members: list[tuple[str, bytes]] = []
    for key, extension, content in [
        ("a", "json", json.dumps({"caption": "from json"}).encode()),
        ("b", "txt", b"caf\xe9"),
        ("c", "json", b"{broken"),
        ("d", "json", json.dumps({"caption": "lone \ud800 surrogate"}).encode()),
    ]:
        members += [(f"{key}.png", image_bytes(1, "PNG")), (f"{key}.{extension}", content)]
    members += [("e.png", image_bytes(1, "PNG")), ("f.png", image_bytes(1, "PNG")), ("f.txt", b"  ")]
    samples, _ = read(write_tar("a.tar", members))
    assert [s.caption for s in samples] == ["from json", "caf\ufffd", "", "lone ? surrogate", "", ""]
    assert [s.flags for s in samples] == [
        (),
        ("caption_not_utf8",),
        ("caption_unreadable", "no_caption"),
        ("caption_not_utf8",),
        ("no_caption",),
        ("no_caption",),
    ]


def test_pickles_beside_an_image_are_ignored_and_never_loaded(write_tar: Write, tmp_path: Path) -> None:
    trap = f"cos\nsystem\n(S'touch {tmp_path}/owned'\ntR.".encode()
    samples, _ = read(write_tar("a.tar", [("a.jpg", image_bytes(1)), *((f"a.{e}", trap) for e in ("pkl", "pyd", "pt"))]))
    assert [s.fault for s in samples] == [None]
    assert not (tmp_path / "owned").exists()


def test_a_link_in_place_of_an_image_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        entry = tarfile.TarInfo("a.jpg")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(entry)
    samples, _ = read(tmp_path / "a.tar")
    assert [s.fault.reason for s in samples if s.fault] == ["not_a_file"]


def test_unwanted_samples_are_counted_but_not_yielded(write_tar: Write) -> None:
    *samples, end = read_shard(str(write_tar("a.tar", good_members(6))), lambda index, _: index >= 4)
    assert [s.index for s in samples if isinstance(s, RawSample)] == [4, 5]
    assert isinstance(end, ShardEnd)
    assert end.samples == 6


def test_captions_are_found_whatever_the_case_of_their_ending(write_tar: Write) -> None:
    members = [
        ("IMG_1.JPG", image_bytes(1)),
        ("IMG_1.TXT", b"shouted"),
        ("b.Jpg", image_bytes(2)),
        ("b.JSON", b'{"caption": "b"}'),
    ]
    samples, _ = read(write_tar("a.tar", members))
    assert [(s.key, s.caption, s.fault) for s in samples] == [("IMG_1", "shouted", None), ("b", "b", None)]


def test_images_of_every_format_are_found_in_a_tar(write_tar: Write) -> None:
    endings = ["jfif", "jpe", "gif", "TIF", "tiff", "bmp", "avif", "jp2", "webp"]
    samples, _ = read(write_tar("a.tar", [(f"{i}.{ending}", b"x") for i, ending in enumerate(endings)]))
    assert [s.fault for s in samples] == [None] * len(endings)


@pytest.mark.parametrize("reason", ["missing", "forbidden", "rate_limited", "timeout", "unreadable"])
def test_why_a_shard_cannot_be_opened_is_its_fault_and_it_is_tried_again(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    @contextmanager
    def refuse(*_: object) -> Iterator[None]:
        raise UnreadableError(reason, "the server says so")
        yield

    monkeypatch.setattr("raymia.data.tar.open_file", refuse)
    assert list(read_shard("x.tar")) == [ShardEnd(0, 0, Fault(f"{reason}_shard", "the server says so"))]
    assert f"{reason}_shard" in RETRIED


def test_a_fault_of_our_own_is_not_taken_for_one_of_the_shard(write_tar: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("ours")

    path = write_tar("a.tar", good_members(2))
    monkeypatch.setattr("raymia.data.tar.caption_beside", broken)
    with pytest.raises((ValueError, UnreadableError), match="ours"):
        list(read_shard(str(path)))


def test_limits_of_a_shard_keep_what_stands_before_them(write_tar: Write) -> None:
    path = write_tar("a.tar", good_members(6))
    for limits in (ReadLimits(max_members=7), ReadLimits(max_shard_bytes=path.stat().st_size // 2)):
        *samples, end = read_shard(str(path), limits=limits)
        assert isinstance(end, ShardEnd)
        assert end.fault is not None
        assert end.fault.reason == "oversized_shard"
        assert len(samples) == end.samples < 6
        assert [s.fault for s in samples if isinstance(s, RawSample)][:2] == [None, None]
    (sample, *_) = read_shard(str(path), limits=ReadLimits(max_image_bytes=10))
    assert isinstance(sample, RawSample)
    assert sample.fault is not None
    assert sample.fault.reason == "too_many_bytes"
    (sample, *_) = read_shard(str(path), limits=ReadLimits(max_text_bytes=3))
    assert isinstance(sample, RawSample)
    assert (sample.fault, sample.flags) == (None, ("caption_unreadable", "no_caption"))
