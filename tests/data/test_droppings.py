from __future__ import annotations

import io

import pytest

from raymia.data.droppings import is_dropping
from raymia.data.tar import RawSample, ShardEnd, read_tar
from tests.conftest import good_members, image_bytes, tar_bytes

DROPPINGS = [
    "._a.jpg",
    "d/._a.txt",
    ".DS_Store",
    "d/.DS_Store",
    "Thumbs.db",
    "THUMBS.DB",
    "desktop.ini",
    "__MACOSX/a.jpg",
    "__MACOSX/d/._a.jpg",
    "d/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg",
    ".nfs000000000012.jpg",
    "lost+found/a.jpg",
    "PaxHeaders.12345/a.jpg",
    "d/PaxHeader/a.jpg",
    "$RECYCLE.BIN/a.jpg",
    ".fuse_hidden0001.png",
    "__index__",
    "d/__index__",
]


@pytest.mark.parametrize("name", DROPPINGS)
def test_droppings_are_known_by_their_names(name: str) -> None:
    assert is_dropping(name)


@pytest.mark.parametrize(
    "name", ["a.jpg", ".a.jpg", "d/.x.txt", "_a.jpg", "__a.jpg", "thumbs.jpg", "macosx/a.jpg", "__x__/a.jpg"]
)
def test_what_people_name_their_files_is_none(name: str) -> None:
    assert not is_dropping(name)


def test_a_tar_from_a_mac_gives_its_samples_with_their_captions_and_counts_the_rest() -> None:
    members = []
    for name, content in good_members(3):
        members += [(f"._{name}", b"\0\x05\x16\x07" + bytes(100)), (name, content)]
    *samples, end = read_tar(io.BytesIO(tar_bytes(members)))
    assert isinstance(end, ShardEnd)
    assert (end.samples, end.skipped, end.fault) == (3, 6, None)
    assert [(s.key, s.caption, s.fault) for s in samples if isinstance(s, RawSample)] == [
        (f"{i:04d}", f"picture number {i}", None) for i in range(3)
    ]


def test_droppings_between_the_members_of_a_sample_do_not_part_them() -> None:
    members = [("a.jpg", image_bytes(1)), *((name, b"x") for name in DROPPINGS), ("a.txt", b"a house")]
    sample, end = read_tar(io.BytesIO(tar_bytes(members)))
    assert isinstance(sample, RawSample)
    assert isinstance(end, ShardEnd)
    assert (sample.caption, sample.fault, end.samples, end.skipped) == ("a house", None, 1, len(DROPPINGS))
