from __future__ import annotations

import gzip
import io
import random
import struct
import tarfile
import tracemalloc
from pathlib import Path
from typing import BinaryIO

import pytest

from raymia.data.members import BrokenTarError, ReadLimits, TarStream
from raymia.data.remote import UnreadableError
from raymia.data.tar import RawSample, ShardEnd, read_shard, read_tar
from tests.conftest import good_members, image_bytes, tar_bytes


def outcome(stream: BinaryIO) -> tuple[list[str | None], ShardEnd]:
    """Why each sample cannot be scored, and how the shard ended."""
    *samples, end = read_tar(stream)
    assert isinstance(end, ShardEnd)
    assert end.samples == len(samples)
    return [s.fault.reason if s.fault else None for s in samples if isinstance(s, RawSample)], end


def reason_of(content: bytes) -> str | None:
    end = outcome(io.BytesIO(content))[1]
    return end.fault.reason if end.fault else None


def header(kind: bytes, size: int, name: str = "x.jpg") -> bytes:
    """A header as it stands, whatever it claims; sizes that octal digits do not hold are in base 256."""
    entry = tarfile.TarInfo(name)
    entry.type = kind
    block = bytearray(entry.tobuf(tarfile.USTAR_FORMAT))
    if 0 <= size < 8**11:
        block[124:136] = f"{size:011o}\0".encode()
    else:
        block[124:136] = (size % 256**12 | (0x80 << 88 if size > 0 else 0)).to_bytes(12)
    block[148:156] = f"{sum(block[:148]) + 8 * 32 + sum(block[156:]):06o}\0 ".encode()
    return bytes(block)


def ends_off(content: bytes) -> bytes:
    """A tar without its end mark."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        *_, last = tar
    return content[: last.offset_data + -(-last.size // 512) * 512]


GOOD = ends_off(tar_bytes(good_members(3)))
END = bytes(1024)


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g", b"X"])
@pytest.mark.parametrize("size", [2**45, 300 * 2**20, 2**62, 2**80])
def test_what_an_extended_header_claims_is_not_allocated_and_samples_before_it_are_kept(kind: bytes, size: int) -> None:
    content = GOOD + header(kind, size) + bytes(2048)
    tracemalloc.start()
    reasons, end = outcome(io.BytesIO(content))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reasons == [None, None, None]
    assert end.fault is not None
    assert end.fault.reason in ("corrupt_shard", "oversized_shard", "truncated_shard")
    assert peak < 2**20


@pytest.mark.parametrize("kind", [b"L", b"x", b"g"])
def test_a_long_extended_header_that_is_really_there_is_not_read(tmp_path: Path, kind: bytes) -> None:
    size = 400 * 2**20
    with (tmp_path / "a.tar").open("wb") as stream:
        stream.write(GOOD + header(kind, size))
        stream.seek(size, io.SEEK_CUR)
        stream.write(tar_bytes(good_members(1, start=7)))
    tracemalloc.start()
    *samples, end = read_shard(str(tmp_path / "a.tar"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(end, ShardEnd)
    assert peak < 2**21
    # What is about all members says nothing that counts, and is passed over.
    assert (len(samples), end.fault.reason if end.fault else None) == ((4, None) if kind == b"g" else (3, "corrupt_shard"))


@pytest.mark.parametrize("size", [-1, -(2**40), 2**45, 2**62, 2**87])
def test_a_size_that_cannot_be_ends_the_shard_and_keeps_what_stands_before(size: int) -> None:
    reasons, end = outcome(io.BytesIO(GOOD + header(b"0", size, "0009.jpg") + bytes(2048)))
    assert reasons[:3] == [None, None, None]
    assert end.fault is not None
    assert end.fault.reason in ("corrupt_shard", "oversized_shard")


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"5", b"6"])
def test_a_link_device_or_folder_has_no_content_whatever_it_claims(kind: bytes) -> None:
    content = GOOD + header(kind, 2**80, "0009.jpg") + tar_bytes(good_members(1, start=7))
    reasons, end = outcome(io.BytesIO(content))
    assert reasons == [None] * 3 + (["not_a_file"] if kind != b"5" else []) + [None]
    assert end.fault is None
    assert end.bytes_reached <= len(content)


def pax(records: bytes) -> bytes:
    return header(b"x", len(records)) + records + bytes(-len(records) % 512)


@pytest.mark.parametrize(
    "records",
    [
        b"12 path=a.jpg\n" * 70_000,
        b"99999999999999999999 path=a.jpg\n",
        b"0 path=a.jpg\n",
        b"3 path=a.jpg\n",
        b"15 size=-1234567\n",
        b"20 size=9999999999999999999999\n",
        b"4110 path=" + b"n" * 4099 + b"\n",
    ],
)
def test_pax_records_that_cannot_be_end_the_shard_and_keep_what_stands_before(records: bytes) -> None:
    reasons, end = outcome(io.BytesIO(GOOD + pax(records) + header(b"0", 0, "0009.jpg") + END))
    assert reasons[:3] == [None, None, None]
    assert end.fault is not None
    assert end.fault.reason == "corrupt_shard"


def test_many_pax_records_are_read_at_the_speed_of_their_bytes() -> None:
    record = b"18 SCHILY.dev=123\n"
    records = record * (2**20 // len(record) - 1) + b"17 path=0009.jpg\n"
    *samples, end = read_tar(io.BytesIO(GOOD + pax(records) + header(b"0", 0, "nameless") + END))
    assert isinstance(end, ShardEnd)
    assert end.fault is None
    assert [s.key for s in samples if isinstance(s, RawSample)][-1] == "0009"


def test_headers_before_headers_come_to_an_end() -> None:
    long_name = header(b"L", 10) + b"0009.jpg\0".ljust(512, b"\0")
    assert reason_of(GOOD + long_name * 3 + header(b"0", 0, "y") + END) is None
    assert reason_of(GOOD + long_name * 5000 + header(b"0", 0, "y") + END) == "corrupt_shard"


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_that_tarfile_finds(format_: int) -> None:
    stream = io.BytesIO()
    names = ["a.jpg", "d/" * 40 + "b.jpg", "folder", "\u00e4\u6f22.png" if format_ != tarfile.USTAR_FORMAT else "c.png", "e/f"]
    if format_ != tarfile.USTAR_FORMAT:
        names.append("n" * 300 + ".jpg")
    with tarfile.open(fileobj=stream, mode="w", format=format_, pax_headers={"comment": "about all"}) as tar:
        for i, name in enumerate(names):
            entry = tarfile.TarInfo(name)
            entry.type = tarfile.DIRTYPE if name == "folder" else tarfile.REGTYPE
            entry.size = 0 if name == "folder" else 100 * i
            entry.mtime = 1.5
            tar.addfile(entry, io.BytesIO(bytes(entry.size)))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            entry = tarfile.TarInfo(f"link{ord(kind)}")
            entry.type, entry.linkname = kind, "t" * (90 if format_ == tarfile.USTAR_FORMAT else 200)
            tar.addfile(entry)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as tar:
        expected = [(m.name, m.size, m.offset_data, m.isreg(), m.isdir()) for m in tar]
    found = [(m.name, m.size, m.content, m.is_file, m.is_folder) for m in TarStream(stream, ReadLimits()).members()]
    assert found == expected


def test_a_size_in_pax_records_counts() -> None:
    image = image_bytes(1)
    size = str(len(image)).encode()
    record = b"%d size=%s\n" % (len(size) + 9, size)
    content = pax(record) + header(b"0", 0, "a.jpg") + image + bytes(-len(image) % 512) + GOOD + END
    sample, *rest, end = read_tar(io.BytesIO(content))
    assert isinstance(sample, RawSample)
    assert sample.image == image
    assert end == ShardEnd(4, end.bytes_reached if isinstance(end, ShardEnd) else 0, None)
    assert len(rest) == 3


def old_sparse(blocks: int) -> bytes:
    block = bytearray(header(b"S", 512, "holes.jpg"))
    block[386:410] = b"00000000000\0" * 2
    block[482] = 1 if blocks else 0
    block[483:495] = b"77777777777\0"
    block[148:156] = f"{sum(block[:148]) + 8 * 32 + sum(block[156:]):06o}\0 ".encode()
    more = b"".join(bytes(504) + bytes([1 if i + 1 < blocks else 0]) + bytes(7) for i in range(blocks))
    return bytes(block) + more + bytes(512)


def new_sparse(**records: str) -> bytes:
    entry = tarfile.TarInfo("holes.jpg")
    entry.size = 512
    entry.pax_headers = {f"GNU.sparse.{name}": value for name, value in records.items()}
    return entry.tobuf(tarfile.PAX_FORMAT) + b"99999999\n1\n2\n".ljust(512, b"\n")


@pytest.mark.parametrize(
    "sparse",
    [
        old_sparse(0),
        old_sparse(3),
        new_sparse(major="1", minor="0", realsize=str(2**50)),
        new_sparse(map=",".join(["1"] * 1000), size=str(2**50)),
        new_sparse(size=str(2**50), numblocks="1", offset="0", numbytes="9"),
    ],
)
def test_a_file_with_holes_is_no_image_and_costs_no_other(sparse: bytes) -> None:
    reasons, end = outcome(io.BytesIO(GOOD + sparse + tar_bytes(good_members(1, start=9))))
    assert reasons == [None, None, None, "not_a_file", None]
    assert end.fault is None


def test_a_map_of_holes_without_end_ends_the_shard() -> None:
    assert reason_of(GOOD + old_sparse(2000) + END) == "corrupt_shard"


@pytest.mark.parametrize("padding", [0, 512, 8192, 2**20])
def test_tars_one_behind_another_are_read_on(padding: int) -> None:
    content = (
        GOOD + bytes(512 + padding) + tar_bytes(good_members(2, start=5)) + bytes(512) + tar_bytes(good_members(1, start=9))
    )
    *samples, end = read_tar(io.BytesIO(content))
    assert isinstance(end, ShardEnd)
    assert end.fault is None
    assert [s.key for s in samples if isinstance(s, RawSample)] == ["0000", "0001", "0002", "0005", "0006", "0009"]
    assert end.bytes_reached > len(GOOD) + padding


def test_an_empty_tar_before_another_is_passed_over() -> None:
    assert outcome(io.BytesIO(bytes(10240) + tar_bytes(good_members(2))))[0] == [None, None]


def test_of_a_second_tar_that_is_damaged_the_readable_part_is_kept() -> None:
    second = bytearray(tar_bytes(good_members(3, start=5)))
    with tarfile.open(fileobj=io.BytesIO(bytes(second))) as tar:
        offset = tar.getmember("0006.jpg").offset
    second[offset : offset + 512] = b"\xff" * 512
    reasons, end = outcome(io.BytesIO(GOOD + END + second))
    assert reasons == [None] * 4
    assert end.fault is not None
    assert end.fault.reason == "corrupt_shard"


@pytest.mark.parametrize("rest", [b"garbage", b"x" * 5000, gzip.compress(b"a tar", mtime=0), b"\x01" + bytes(511)])
def test_what_stands_behind_the_end_mark_and_is_no_tar_is_said_and_costs_no_sample(rest: bytes) -> None:
    # The last sample has no caption, and none is missing: the end mark says so.
    content = GOOD + tar_bytes([("0009.jpg", image_bytes(1))]) + rest
    reasons, end = outcome(io.BytesIO(content))
    assert reasons == [None] * 4
    assert end.fault is not None
    assert end.fault.reason == "trailing_data"


@pytest.mark.parametrize("zeros", [512, 513, 1023, 1024, 9999])
def test_any_number_of_zeros_after_one_block_of_them_is_an_end(zeros: int) -> None:
    assert reason_of(GOOD + bytes(zeros)) is None


@pytest.mark.parametrize("zeros", [0, 1, 511])
def test_less_than_a_block_of_zeros_is_no_end(zeros: int) -> None:
    assert reason_of(GOOD + bytes(zeros)) == "truncated_shard"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(GOOD + END), "gzip"),
        (b"BZh9" + bytes(600), "bzip2"),
        (b"\xfd7zXZ\0" + bytes(600), "xz"),
        (b"\x28\xb5\x2f\xfd" + bytes(20), "zstd"),
        (b"PK\x03\x04" + bytes(600), "zip"),
        (b"<!DOCTYPE html><html>" + bytes(600), "HTML"),
        (b'{"error": "gone"}', "JSON"),
    ],
)
def test_what_is_no_tar_is_named(content: bytes, said: str) -> None:
    end = outcome(io.BytesIO(content))[1]
    assert end.fault is not None
    assert end.fault.reason == "not_a_tar"
    assert said in end.fault.detail


class ClientError(Exception):
    """What a network's client raises, of no class that Python knows."""


class Failing(io.BytesIO):
    """A stream that is gone after so many reads."""

    def __init__(self, content: bytes, reads: int, error: Exception) -> None:
        super().__init__(content)
        self.left, self.error = reads, error

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().read(size)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("gone"), "unreadable_shard"),
        (ClientError("429 https://user:secret@host/x.tar?sig=secret"), "unreadable_shard"),
        (MemoryError(), "unreadable_shard"),
        (RuntimeError("session is closed"), "unreadable_shard"),
        (UnreadableError("rate_limited", "429"), "rate_limited_shard"),
        (UnreadableError("missing", "no such file"), "missing_shard"),
    ],
)
def test_a_stream_that_breaks_at_any_read_keeps_what_was_read(error: Exception, reason: str) -> None:
    whole = None
    for reads in range(40):
        reasons, end = outcome(Failing(GOOD + END, reads, error))
        if end.fault is None:
            whole = reads
            break
        assert end.fault.reason == reason
        assert "secret" not in end.fault.detail
        assert reasons[:-1] == [None] * (len(reasons) - 1)
        assert reasons[-1:] in ([], [None], ["truncated_sample"])
    assert whole is not None


class Dribbling(io.BytesIO):
    """A stream that gives less than it is asked for."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, 100))


def test_a_stream_that_gives_little_at_a_time_is_read_whole() -> None:
    assert outcome(Dribbling(GOOD + END))[0] == [None, None, None]


@pytest.mark.parametrize("damage", ["bytes", "headers", "cut", "swap"])
def test_a_damaged_tar_always_comes_to_an_end_and_accounts_for_its_samples(damage: str) -> None:
    chosen = random.Random(3)  # noqa: S311 - any numbers do
    content = tar_bytes(
        [*good_members(4), ("n" * 200 + ".jpg", image_bytes(1)), ("a.seg.png", b"x"), ("a.jpg", image_bytes(2))]
    )
    ends: set[str | None] = set()
    for _ in range(150):
        mutated = bytearray(content)
        for _ in range(chosen.choice((1, 3, 30))):
            place = chosen.randrange(len(mutated))
            if damage == "headers":
                place = place // 512 * 512 + chosen.choice((0, 100, 124, 130, 136, 148, 156, 257, 345))
            mutated[place] = chosen.choice((0, 0x30, 0x37, 0x4C, 0x78, 0x80, 0xFF))
        if damage == "cut":
            del mutated[chosen.randrange(len(mutated)) :]
        elif damage == "swap":
            a, b = (chosen.randrange(len(mutated) // 512) * 512 for _ in range(2))
            mutated[a : a + 512], mutated[b : b + 512] = mutated[b : b + 512], mutated[a : a + 512]
        end = outcome(io.BytesIO(bytes(mutated)))[1]
        ends.add(end.fault.reason if end.fault else None)
    assert len(ends) > 1


def test_content_that_ends_early_is_an_error_of_the_stream() -> None:
    tar = TarStream(io.BytesIO(GOOD[:1000]), ReadLimits())
    member = next(iter(tar.members()))
    with pytest.raises(BrokenTarError, match="of"):
        tar.content(member)


def test_fields_that_nobody_needs_may_be_anything() -> None:
    block = bytearray(header(b"0", 0, "a.jpg"))
    block[265:297] = b"\xff" * 32
    block[329:337] = struct.pack(">Q", 2**63)
    block[148:156] = f"{sum(block[:148]) + 8 * 32 + sum(block[156:]):06o}\0 ".encode()
    assert reason_of(bytes(block) + END) is None
