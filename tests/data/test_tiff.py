from __future__ import annotations

import struct

import pytest

from raymia.data.tiff import first_directory, orientation_in
from tests.data.image_files import exif


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["B", "H", "I", "b", "h", "i"])
def test_the_orientation_is_read_whatever_whole_number_it_is(order: str, kind: str) -> None:
    number = {"B": 1, "H": 3, "I": 4, "b": 6, "h": 8, "i": 9}[kind]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    entry = struct.pack(order + "HHI", 0x0112, number, 1) + struct.pack(order + kind, 8).ljust(4, b"\0")
    assert orientation_in(head + struct.pack(order + "H", 1) + entry + bytes(4)) == 8


@pytest.mark.parametrize("content", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", b"no tiff at all"])
def test_of_what_is_no_directory_nothing_is_said(content: bytes) -> None:
    assert orientation_in(content) is None


def test_a_directory_that_breaks_off_is_read_as_far_as_it_goes() -> None:
    content = exif(6, b"\xff" * 12, b"\xee" * 12)[6:]
    found = first_directory(content[: 10 + 12 + 5])
    assert found is not None
    assert [entry.tag for entry in found.entries] == [0x0112]


@pytest.mark.parametrize(("kind", "count"), [(2, 1), (5, 1), (3, 2), (99, 1)])
def test_an_orientation_that_is_no_single_number_is_upright(kind: int, count: int) -> None:
    entry = struct.pack("<HHIHH", 0x0112, kind, count, 6, 0)
    assert orientation_in(b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + bytes(4)) == 1
