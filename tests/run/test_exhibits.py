"""Exhibits of a run that somebody else made: only whole ones are shown, and only of the run's own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raymia.run.exhibits import read_exhibits
from tests.conftest import image_bytes

ONE: dict[str, Any] = {
    "split": "s", "shard": "h", "key": "k", "member": True, "signal": "generation.max", "score": 0.9, "prompt": "a fox",
    "seed": 7, "draw": 0, "similarity": 0.9, "image": "exhibits/000.png",
}  # fmt: skip


def write(run: Path, *exhibits: dict[str, Any]) -> None:
    (run / "exhibits").mkdir()
    (run / "exhibits" / "000.png").write_bytes(image_bytes(1, "PNG"))
    (run / "exhibits" / "exhibits.json").write_text(json.dumps({"exhibits": exhibits}))


def test_exhibits_come_with_the_bytes_of_their_images(tmp_path: Path) -> None:
    write(tmp_path, ONE, {**ONE, "image": "exhibits/001.png"})
    ((found, image),) = read_exhibits(str(tmp_path))
    assert (found.prompt, found.answer, image) == ("a fox", None, image_bytes(1, "PNG")), "the second image is not there"


@pytest.mark.parametrize(
    "name", ["../secret", "exhibits/../../secret", "/etc/passwd", "exhibits/.hidden", "run.json", "exhibits\\..\\run.json", ""]
)
def test_no_file_but_an_exhibit_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path.parent / "secret").write_bytes(b"secret")
    (tmp_path / "run.json").write_bytes(b"{}")
    write(tmp_path, {**ONE, "image": name})
    assert read_exhibits(str(tmp_path)) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"exhibits": 3}', '{"exhibits": [{"split": 1}]}', "[" * 100_000])
def test_a_list_that_cannot_be_read_is_as_if_there_were_none(tmp_path: Path, content: str) -> None:
    write(tmp_path)
    (tmp_path / "exhibits" / "exhibits.json").write_text(content)
    assert read_exhibits(str(tmp_path)) == []
    assert read_exhibits(str(tmp_path / "nowhere")) == []
