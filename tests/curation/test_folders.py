"""Whatever a folder holds is listed, once and without waiting for ever: as a file, or with the reason why not."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import fsspec
import pytest

from raymia.curation.folders import Dropped, irregular, list_folder, printable
from raymia.errors import ConfigError


def reasons(dropped: list[Dropped]) -> dict[str, tuple[str, str]]:
    return {row.source: (row.stage, row.reason) for row in dropped}


def test_files_are_listed_in_order_with_names_of_any_bytes(tmp_path: Path) -> None:
    names = [
        b"b/z.jpg",
        b"a.jpg",
        b"b/\xe9.jpg",
        b"new\nline",
        b"\x1b[31m.jpg",
        b"a::b.jpg",
        b".hidden.jpg",
        b" ",
        "é".encode(),
    ]
    (tmp_path / "b").mkdir()
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"")
    listing = list_folder(str(tmp_path))
    assert [os.fsencode(name) for name in listing.names] == sorted(names, key=os.fsdecode)
    assert listing.dropped == []
    assert list_folder(f"file://{tmp_path}").names == listing.names


def test_what_is_no_file_has_its_reason_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "one.jpg").symlink_to("two.jpg")
    (tmp_path / "two.jpg").symlink_to("one.jpg")
    (tmp_path / "null.jpg").symlink_to("/dev/null")
    (tmp_path / "good.jpg").write_bytes(b"")
    (tmp_path / "linked.jpg").symlink_to("good.jpg")
    # A socket's path is short by necessity.
    with tempfile.TemporaryDirectory(dir="/tmp") as short, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{short}/s")
        (tmp_path / "socket.jpg").symlink_to(f"{short}/s")
        listing = list_folder(str(tmp_path))
        assert irregular(f"{short}/s") == "a socket"
    assert listing.names == ["good.jpg", "linked.jpg"]
    assert reasons(listing.dropped) == {
        "pipe.jpg": ("read", "not_a_file"),
        "gone.jpg": ("read", "dangling_link"),
        "one.jpg": ("read", "link_loop"),
        "two.jpg": ("read", "link_loop"),
        "null.jpg": ("read", "not_a_file"),
        "socket.jpg": ("read", "not_a_file"),
    }
    assert [irregular(str(tmp_path / name)) for name in ("pipe.jpg", "null.jpg", "good.jpg", "gone.jpg")] == [
        "a pipe",
        "a device",
        None,
        None,
    ]


def test_folders_that_links_lead_to_are_listed_once_and_loops_end(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "far.jpg").write_bytes(b"")
    root = tmp_path / "root"
    (root / "z").mkdir(parents=True)
    (root / "z" / "near.jpg").write_bytes(b"")
    (root / "a-link-to-z").symlink_to("z")
    (root / "self").symlink_to(".")
    (root / "z" / "up").symlink_to("..")
    (root / "outside").symlink_to(outside)
    (outside / "back").symlink_to(root)
    listing = list_folder(str(root))
    assert listing.names == ["outside/far.jpg", "z/near.jpg"]
    assert reasons(listing.dropped) == dict.fromkeys(
        ["a-link-to-z/", "outside/back/", "self/", "z/up/"], ("list", "repeated_folder")
    )


def test_droppings_are_passed_over_with_a_row_each_and_their_folders_whole(tmp_path: Path) -> None:
    for name in ("._a.jpg", ".DS_Store", "THUMBS.DB", "Icon\r", "__MACOSX/a.jpg", "@eaDir/a/b.jpg", "deep/.git/HEAD", "a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    listing = list_folder(str(tmp_path))
    assert listing.names == ["a.jpg"]
    expected = [".DS_Store", "._a.jpg", "@eaDir/", "Icon\r", "THUMBS.DB", "__MACOSX/", "deep/.git/"]
    assert reasons(listing.dropped) == dict.fromkeys(expected, ("list", "dropping"))


def test_a_folder_in_it_that_cannot_be_listed_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    # Deeper than a path may be long, which holds for the superuser, too.
    at = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=at)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    listing = list_folder(str(tmp_path))
    assert listing.names == ["a.jpg"]
    assert [(row.stage, row.reason, row.detail) for row in listing.dropped] == [
        ("read", "unlistable_folder", "File name too long")
    ]


def test_an_object_store_is_listed_without_the_droppings_that_were_copied_there() -> None:
    filesystem = fsspec.filesystem("memory")
    for name in ("a.jpg", "deep/b.jpg", "deep/._b.jpg", "__MACOSX/c.jpg"):
        filesystem.pipe_file(f"/listed/{name}", b"")
    listing = list_folder("memory://listed")
    assert listing.names == ["a.jpg", "deep/b.jpg"]
    assert sorted(reasons(listing.dropped)) == ["__MACOSX/c.jpg", "deep/._b.jpg"]


@pytest.mark.parametrize("source", ["{}/gone", "{}/file.txt", "memory://gone", "file://{}/gone"])
def test_what_is_no_folder_is_refused(tmp_path: Path, source: str) -> None:
    (tmp_path / "file.txt").write_bytes(b"")
    with pytest.raises(ConfigError, match="expected a folder, or a table that ends in"):
        list_folder(source.format(tmp_path))


def test_a_store_that_cannot_be_asked_is_named_without_secrets() -> None:
    with pytest.raises(ConfigError, match=r"^cannot be listed: nosuch://host/folder: ") as caught:
        list_folder("nosuch://user:p@ss/word@host/folder?sig=secret")
    assert "ss/word" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_names_that_are_not_utf_8_are_spelled_out() -> None:
    assert printable(os.fsdecode(b"caf\xe9.jpg")) == "caf\\xe9.jpg"
    assert printable("half \ud83d") == "half \\ud83d"
    assert printable("caf\u00e9\n") == "caf\u00e9\n"
