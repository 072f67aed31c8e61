"""Every file and row that a person points at becomes an image to be packed, or a row that says why not."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymia.curation.inputs import find_parts
from raymia.curation.parts import DroppedPart, FilePart, ImageFile, Part, ShardPart, dropped_rows
from raymia.errors import ConfigError
from tests.conftest import good_members, image_bytes, tar_bytes

IMAGE = image_bytes(1)
HUB = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
COMPOSED, APART = (unicodedata.normalize(form, "gr\u00fc\u00df.jpg") for form in ("NFC", "NFD"))


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(IMAGE)
    return folder


def found(source: Path, captions: Path | None = None, per_shard: int = 100) -> tuple[list[Part], dict[str, tuple[str, str]]]:
    """What is to be packed; and stage and reason by source of what is not."""
    parts = find_parts("members", str(source), None if captions is None else str(captions), per_shard)
    dropped = [row for part in parts if isinstance(part, DroppedPart) for row in part.rows]
    assert len({row.source for row in dropped}) == len(dropped)
    return [part for part in parts if not isinstance(part, DroppedPart)], {r.source: (r.stage, r.reason) for r in dropped}


def files(source: Path, captions: Path | None = None) -> dict[str, ImageFile]:
    parts, _ = found(source, captions)
    return {file.source: file for part in parts if isinstance(part, FilePart) for file in part.files}


def csv(path: Path, **columns: Any) -> Path:
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def test_every_file_of_a_folder_is_an_image_a_caption_or_a_row(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "b.jfif", "c.jpe", "d", "._a.jpg", "deep/e.jpg_large")
    for name in ("a.txt", "alone.txt", "notes.md", "a.xmp"):
        (tmp_path / name).write_text("text")
    os.mkfifo(tmp_path / "pipe.jpg")
    (parts, dropped) = found(tmp_path, per_shard=2)
    assert [(part.number, [file.source for file in part.files]) for part in parts if isinstance(part, FilePart)] == [
        (0, ["a.jpg", "b.jfif"]),
        (1, ["c.jpe", "d"]),
        (2, ["deep/e.jpg_large"]),
    ]
    assert dropped == {
        "._a.jpg": ("list", "dropping"),
        "alone.txt": ("list", "unused_caption"),
        "notes.md": ("list", "not_an_image"),
        "a.xmp": ("list", "not_an_image"),
        "pipe.jpg": ("read", "not_a_file"),
    }


def test_files_beside_an_image_leave_its_key_alone(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg")
    for name in ("a.xmp", "a.nef", "a.txt", "a.json", "a.mp4"):
        (tmp_path / name).write_bytes(b"x")
    assert files(tmp_path)["a.jpg"].key == "a"


def test_images_and_tars_of_one_folder_are_both_packed(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "b.jpg")
    for name in ("x.tar", "y.TAR"):
        (tmp_path / name).write_bytes(tar_bytes(good_members(1)))
    parts, dropped = found(tmp_path, per_shard=1)
    assert [(type(part), part.number) for part in parts] == [(FilePart, 0), (FilePart, 1), (ShardPart, 2), (ShardPart, 3)]
    assert dropped == {}


def test_what_img2dataset_leaves_beside_its_tars_is_known(tmp_path: Path) -> None:
    (tmp_path / "00000.tar").write_bytes(tar_bytes(good_members(1)))
    (tmp_path / "00000.parquet").write_bytes(b"")
    (tmp_path / "00000_stats.json").write_text("{}")
    parts, dropped = found(tmp_path)
    assert [part.table for part in parts if isinstance(part, ShardPart)] == [f"{tmp_path}/00000.parquet"]
    assert dropped == {}


def test_a_caption_is_found_beside_an_image_whatever_the_case_or_unicode_form_of_its_name(tmp_path: Path) -> None:
    make(tmp_path, "IMG_1.JPG", "IMG_2.JPG", APART, "both.jpg", "both.png", "A.jpg", "a.jpg")
    for name in ("IMG_1.TXT", "img_2.txt", f"{COMPOSED[:-4]}.json", "both.txt", "both.JSON", "a.TXT"):
        (tmp_path / name).write_text("text")
    beside = {name: [Path(car).name for car in file.side_cars] for name, file in files(tmp_path).items()}
    flags = {name: file.flags for name, file in files(tmp_path).items() if file.flags}
    assert beside == {
        "IMG_1.JPG": ["IMG_1.TXT"],
        "IMG_2.JPG": ["img_2.txt"],
        APART: [f"{COMPOSED[:-4]}.json"],
        "both.jpg": ["both.txt", "both.JSON"],
        "both.png": ["both.txt", "both.JSON"],
        # The caption of `a.jpg` is not that of `A.jpg`, too.
        "A.jpg": [],
        "a.jpg": ["a.TXT"],
    }
    assert flags == {"IMG_2.JPG": ("name_differs",), APART: ("name_differs",)}


def test_captions_from_a_table_are_matched_and_what_does_not_match_is_told(tmp_path: Path) -> None:
    make(tmp_path, "0003.jpg", APART, "IMG.JPG", "unnamed.jpg", "twice.jpg", "deep/x.jpg", "empty.jpg")
    names = ["0003.jpg", COMPOSED, "img.jpg", "gone.jpg", "twice.jpg", "twice.jpg", "deep\\x.jpg", "empty.jpg"]
    table = csv(tmp_path / "captions.csv", file=names, caption=["007", "b", "c", "d", "e", "f", "g", None])
    given = {name: (file.caption, file.flags) for name, file in files(tmp_path, table).items()}
    assert given == {
        "0003.jpg": ("007", ()),
        APART: ("b", ("name_differs",)),
        "IMG.JPG": ("c", ("name_differs",)),
        "unnamed.jpg": ("", ("not_in_captions",)),
        "twice.jpg": ("e", ("several_captions",)),
        "deep/x.jpg": ("g", ("name_differs",)),
        "empty.jpg": ("", ()),
    }
    # The table itself, which stands in the folder, is no surprise.
    assert found(tmp_path, table)[1] == {"gone.jpg": ("list", "no_such_image")}
    with pytest.raises(ConfigError, match=r"none of its files is in .*, such as 'elsewhere.jpg'"):
        found(tmp_path, csv(tmp_path / "other.csv", file=["elsewhere.jpg"], caption=["x"]))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_rows_of_a_table_are_images_or_rows_with_a_reason(tmp_path: Path, ending: str) -> None:
    make(tmp_path, "0003", APART, "IMG.JPG")
    names = ["0003", COMPOSED, "img.jpg", "gone.jpg", None, "0003", "./0003", "0003"]
    table = pd.DataFrame({"file": names, "caption": ["007", "true", "1e5", None, "x", "007", "007", "another"]})
    path = tmp_path / f"t.{ending}"
    table.to_csv(path, index=False) if ending == "csv" else table.to_parquet(path)
    (part,), dropped = found(path)
    assert isinstance(part, FilePart)
    assert [(file.source, file.caption, file.flags) for file in part.files] == [
        ("0003", "007", ()),
        (COMPOSED, "true", ("name_differs",)),
        ("img.jpg", "1e5", ("name_differs",)),
        ("gone.jpg", "", ()),
        ("0003", "another", ()),
    ]
    assert [Path(file.location).name for file in part.files] == ["0003", APART, "IMG.JPG", "gone.jpg", "0003"]
    assert len({file.key for file in part.files}) == 5
    assert dropped == {
        "row 4": ("read", "no_file_named"),
        "0003": ("read", "duplicate_file"),
        "./0003": ("read", "duplicate_file"),
    }


def test_images_that_stand_in_a_table_are_its_rows(tmp_path: Path) -> None:
    images = [{"bytes": IMAGE, "path": "x.jpg"}, {"bytes": None, "path": "y.jpg"}, None, {"bytes": IMAGE, "path": "x.jpg"}]
    pq.write_table(pa.table({"image": pa.array(images, HUB), "text": ["1", "2", None, "4"]}), tmp_path / "hub.parquet")
    parts, dropped = found(tmp_path / "hub.parquet", per_shard=3)
    assert dropped == {}
    assert [part.table for part in parts] == [f"{tmp_path}/hub.parquet"] * 2
    rows = [file for part in parts if isinstance(part, FilePart) for file in part.files]
    assert [(file.row, file.source, file.location, file.caption) for file in rows] == [
        (0, "x.jpg", f"{tmp_path}/x.jpg", "1"),
        (1, "y.jpg", f"{tmp_path}/y.jpg", "2"),
        (2, "row-00000002", "", ""),
        (3, "x.jpg", f"{tmp_path}/x.jpg", "4"),
    ]
    assert len({file.key for file in rows}) == 4


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (pa.list_(HUB), "column image is list<"),
        (pa.struct([("url", pa.string())]), "column image is struct<url: string>; expected text, or a struct with `bytes`"),
    ],
)
def test_a_column_of_images_that_holds_something_else_is_named_with_its_type(
    tmp_path: Path, kind: pa.DataType, message: str
) -> None:
    pq.write_table(pa.table({"image": pa.nulls(1, kind), "caption": ["x"]}), tmp_path / "t.parquet")
    with pytest.raises(ConfigError) as caught:
        found(tmp_path / "t.parquet")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,caption\na.jpg,one, two\n", "line 2: expected 2 fields"),
        ("file,caption\n", "none of its rows names an image"),
        ("a.jpg,a cat\nb.jpg,a dog\n", "expected a column caption or text or TEXT; it has a.jpg, a cat"),
        ("name,caption\na.jpg,a cat\n", "expected a column file or path or image; it has name, caption"),
    ],
)
def test_a_table_that_names_no_images_is_refused_by_name(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(ConfigError, match=str(tmp_path / "t.csv")) as caught:
        found(tmp_path / "t.csv")
    assert message in str(caught.value)


def test_a_folder_without_images_is_refused_with_what_it_holds_and_the_table_that_may_be_meant(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no tars in this folder; it is empty"):
        found(tmp_path)
    (tmp_path / "train.parquet").write_bytes(b"")
    (tmp_path / "README.md").write_bytes(b"")
    with pytest.raises(ConfigError, match=rf"its 2 files have \.md, \.parquet; to pack .*: {tmp_path}/train.parquet"):
        found(tmp_path)


def test_one_table_of_captions_serves_several_splits_and_rows_of_the_other_split_are_not_amiss(tmp_path: Path) -> None:
    make(tmp_path, "theirs/a.jpg", "theirs/B.jpg", "others/c.jpg")
    table = csv(tmp_path / "captions.csv", file=["a.jpg", "b.jpg", "c.jpg", "gone.jpg"], caption=list("abcd"))
    parts = [part for name in ("theirs", "others") for part in find_parts(name, str(tmp_path / name), str(table), 10)]
    assert [(split, row.source, row.reason) for split, row in dropped_rows(parts)] == [
        ("theirs", "gone.jpg", "no_such_image"),
        ("others", "gone.jpg", "no_such_image"),
    ]


def test_captions_for_what_has_its_own_are_refused(tmp_path: Path) -> None:
    table = csv(tmp_path / "captions.csv", file=["a.jpg"], caption=["x"])
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "x.tar").write_bytes(tar_bytes(good_members(1)))
    with pytest.raises(ConfigError, match="holds tars, which have captions of their own"):
        found(tmp_path / "tars", table)
    with pytest.raises(ConfigError, match=r"captions\.csv has captions of its own"):
        found(table, table)


def test_a_home_directory_is_found_by_its_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    make(tmp_path, "pictures/a.jpg")
    (file,) = files(Path("~/pictures")).values()
    assert file.location == f"{tmp_path}/pictures/a.jpg"
