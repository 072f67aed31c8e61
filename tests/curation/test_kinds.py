"""Files are told apart by their extension, and by their first bytes where that says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from raymia.curation.kinds import sort_files
from raymia.data.formats import FORMATS
from tests.conftest import image_bytes


@pytest.mark.parametrize("kind", [known.name.replace(" ", "") for known in FORMATS])
@pytest.mark.parametrize("name", ["noending", "x.JFIF", "x.dat", "x.jpg_large", "0123.abc"])
def test_an_image_is_an_image_whatever_its_name(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / name).write_bytes(image_bytes(1, kind))
    found = sort_files(str(tmp_path), [name])
    assert (found.images, found.dropped) == ([name], [])


def test_everything_in_a_folder_is_told(tmp_path: Path) -> None:
    contents = {
        "a.jpg": b"nonsense, but called an image",
        "b.TXT": b"caption",
        "c.json": b"{}",
        "d.TAR": b"",
        "e.zip": image_bytes(1),
        "e.tar.gz": b"",
        "f.NEF": b"II*\0" + image_bytes(1),
        "g.heic": b"\0\0\0\x18ftypheic",
        "h.xmp": b"<x/>",
        "i.md": b"# Images",
        "j": b"",
        "k.csv": b"file,caption",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    found = sort_files(str(tmp_path), [*contents, "gone.bin"], known=["k.csv"])
    assert (found.images, found.tars, found.texts) == (["a.jpg"], ["d.TAR"], ["b.TXT", "c.json"])
    assert {row.source: (row.stage, row.reason) for row in found.dropped} == {
        "e.zip": ("read", "archive"),
        "e.tar.gz": ("read", "archive"),
        "f.NEF": ("decode", "unknown_format"),
        "g.heic": ("decode", "unknown_format"),
        "h.xmp": ("list", "not_an_image"),
        "i.md": ("list", "not_an_image"),
        "j": ("list", "not_an_image"),
        "gone.bin": ("read", "missing"),
    }
