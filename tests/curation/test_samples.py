"""A part becomes a shard and rows that close: each image that was attempted is packed, or lost with a reason."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymia.curation.inputs import find_parts
from raymia.curation.pack import pack_part
from raymia.curation.parts import DroppedPart, FilePart
from raymia.data.images import MAX_PIXELS
from raymia.data.tar import RawSample, read_shard
from raymia.errors import ConfigError
from tests.conftest import image_bytes, tar_bytes

IMAGE = image_bytes(1)
HUB = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
Rows = list[dict[str, Any]]


def packed(source: Path, out: Path, per_shard: int = 100) -> tuple[Rows, list[RawSample]]:
    """Rows of the attrition table, and the samples of all shards; that they close is seen to here."""
    rows: Rows = []
    samples: list[RawSample] = []
    for part in find_parts("members", str(source), None, per_shard):
        assert not isinstance(part, DroppedPart)
        attempted = pack_part(part, str(out), MAX_PIXELS)
        name = f"members-{part.number:05d}"
        of_part = pq.read_table(out / "attrition" / f"{name}.parquet").to_pylist()
        shard = out / "shards" / f"{name}.tar"
        in_shard = [item for item in read_shard(str(shard)) if isinstance(item, RawSample)] if shard.is_file() else []
        assert attempted == len(of_part) == len(in_shard) + sum(row["reason"] is not None for row in of_part)
        assert [sample.key for sample in in_shard] == [row["key"] for row in of_part if row["reason"] is None]
        rows += of_part
        samples += in_shard
    return rows, samples


def captions(source: Path, out: Path) -> dict[str, tuple[str, str | None]]:
    """Caption and flags by the name of the image."""
    rows, samples = packed(source, out)
    text = {sample.key: sample.caption for sample in samples}
    return {row["source"]: (text[row["key"]], row["flags"]) for row in rows if row["reason"] is None}


@pytest.mark.parametrize(
    ("beside", "caption", "flags"),
    [
        ({"json": b'{"caption": "half \\ud83d here"}'}, "half ? here", "caption_not_utf8"),
        ({"json": b"{broken"}, "", "caption_unreadable,no_caption"),
        ({"json": b"[" * 100_000}, "", "caption_unreadable,no_caption"),
        ({"json": b'["a list"]'}, "", "caption_unreadable,no_caption"),
        ({"json": b'\xef\xbb\xbf{"caption": "marked"}'}, "marked", "caption_cleaned"),
        ({"txt": b"\xef\xbb\xbfmarked"}, "marked", "caption_cleaned"),
        ({"txt": "wide".encode("utf-16")}, "wide", "caption_cleaned,caption_not_utf8"),
        ({"txt": b"caf\xe9"}, "caf\ufffd", "caption_not_utf8"),
        ({"txt": b" \n", "json": b'{"caption": "of the json"}'}, "of the json", ""),
        ({"txt": b"of the text", "json": b"{broken"}, "of the text", "facts_unreadable"),
        ({"TXT": b"in capitals"}, "in capitals", ""),
        ({"txt": b"x" * 2**21, "json": b'{"caption": "of the json"}'}, "of the json", "caption_unreadable"),
        ({}, "", "no_caption"),
    ],
)
def test_what_stands_beside_an_image_never_costs_it(tmp_path: Path, beside: dict[str, bytes], caption: str, flags: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(IMAGE)
    for ending, content in beside.items():
        (tmp_path / "in" / f"a.{ending}").write_bytes(content)
    assert captions(tmp_path / "in", tmp_path / "out") == {"a.jpg": (caption, flags)}


def test_a_caption_that_cannot_be_opened_never_costs_its_image(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(IMAGE)
    (tmp_path / "in" / "a.txt").write_text("there when the folder was listed")
    (part,) = find_parts("members", str(tmp_path / "in"), None, 10)
    assert isinstance(part, FilePart)
    (tmp_path / "in" / "a.txt").unlink()
    os.mkfifo(tmp_path / "in" / "a.txt")
    assert pack_part(part, str(tmp_path / "out"), MAX_PIXELS) == 1
    (row,) = pq.read_table(tmp_path / "out" / "attrition" / "members-00000.parquet").to_pylist()
    assert (row["reason"], row["flags"]) == (None, "caption_unreadable,no_caption")


def test_files_of_any_name_are_packed_and_named_in_the_table(tmp_path: Path) -> None:
    names = [
        b"caf\xe9.jpg",
        b"new\nline.jpg",
        b"\x1b[31mred.jpg",
        b"a?b#c.jpg",
        b"a::b.jpg",
        b"st*r[1]{2}.jpg",
        b" .jpg",
        b"\xff\xfe.jpg",
    ]
    (tmp_path / "in").mkdir()
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/" + name)).write_bytes(IMAGE)
    rows, samples = packed(tmp_path / "in", tmp_path / "out")
    assert len(samples) == len(names)
    assert sorted(row["source"] for row in rows) == sorted(name.decode("utf-8", "backslashreplace") for name in names)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "WEBP"])
@pytest.mark.parametrize("name", ["a.{}", "b.jpg", "c"])
def test_images_of_every_format_are_packed_as_what_they_are(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / "in").mkdir()
    content = image_bytes(3, kind)
    (tmp_path / "in" / name.format(kind.lower())).write_bytes(content)
    (row,), (sample,) = packed(tmp_path / "in", tmp_path / "out")
    assert (row["reason"], sample.image) == (None, content)


def test_images_that_cannot_be_read_are_rows(tmp_path: Path) -> None:
    (tmp_path / "good.jpg").write_bytes(IMAGE)
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    names = ["good.jpg", "gone.jpg", "folder.jpg", "pipe.jpg", "nosuch://user:p@ss/word@host/a.jpg?sig=secret"]
    pd.DataFrame({"file": names, "caption": "x"}).to_csv(tmp_path / "t.csv", index=False)
    rows, _ = packed(tmp_path / "t.csv", tmp_path / "out")
    assert [row["stage"] for row in rows] == [None, "read", "read", "read", "read"]
    assert [row["reason"] for row in rows[:4]] == [None, "missing", "not_a_file", "not_a_file"]
    assert rows[4]["source"] == "nosuch://host/a.jpg"
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert not any(word in str(rows).encode() + written for word in (b"ss/word", b"secret"))


def test_a_sample_that_repeats_a_key_of_a_tar_has_a_row_too(tmp_path: Path) -> None:
    members = [
        ("a.jpg", IMAGE),
        ("a.txt", b"one"),
        ("b.jpg", b"broken"),
        ("a.jpg", IMAGE),
        ("a.txt", b"two"),
        ("c.txt", b"alone"),
    ]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.tar").write_bytes(tar_bytes(members))
    rows, (sample,) = packed(tmp_path / "in", tmp_path / "out")
    assert (sample.key, sample.caption) == ("a", "one")
    assert [(row["key"], row["stage"]) for row in rows] == [("a", None), ("a", "read"), ("b", "decode"), ("c", "read")]
    assert [row["reason"] for row in rows if row["stage"] == "read"] == ["duplicate_key", "no_image"]


def test_what_a_system_left_in_a_tar_is_passed_over_with_a_count(tmp_path: Path) -> None:
    members = [("._a.jpg", b"x"), ("a.jpg", IMAGE), ("._a.txt", b"x"), ("a.txt", b"one"), ("__MACOSX/._a.jpg", b"x")]
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    (part,) = find_parts("members", str(tmp_path), None, 10)
    assert not isinstance(part, DroppedPart)
    assert pack_part(part, str(tmp_path / "out"), MAX_PIXELS) == 1
    rows = pq.read_table(tmp_path / "out" / "attrition" / "members-00000.parquet").to_pylist()
    assert [(row["source"], row["stage"], row["reason"]) for row in rows] == [
        (f"{tmp_path}/x.tar", "list", "dropping"),
        ("a", None, None),
    ]
    assert str(rows[0]["detail"]).startswith("3 files")


def test_flags_of_a_tar_and_of_what_follows_where_it_breaks_off_reach_the_table(tmp_path: Path) -> None:
    members = [("a.jpg", IMAGE), ("a.txt", b"caf\xe9"), ("b.jpg", IMAGE), ("b.txt", b""), ("c.jpg", IMAGE * 3)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.tar").write_bytes(tar_bytes(members)[: -len(IMAGE) * 2 - 10_240])
    rows, samples = packed(tmp_path / "in", tmp_path / "out")
    assert [sample.key for sample in samples] == ["a", "b"]
    by_key = {row["key"]: row for row in rows}
    assert (by_key["a"]["flags"], by_key["b"]["flags"]) == ("caption_not_utf8", "no_caption")
    assert {str(row["reason"]).partition("_")[0] for row in rows if row["stage"] == "read"} == {"truncated"}


def test_images_of_a_table_are_packed_from_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "beside.jpg").write_bytes(image_bytes(9))
    images = [
        {"bytes": image_bytes(1), "path": "x.jpg"},
        {"bytes": None, "path": "beside.jpg"},
        {"bytes": None, "path": "gone.jpg"},
        None,
        {"bytes": b"broken", "path": None},
        {"bytes": image_bytes(2, "PNG"), "path": "x.jpg"},
    ]
    table = pa.table({"image": pa.array(images, HUB), "caption": pa.array([1, 2, None, 4, 5, 6])})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=4)
    rows, samples = packed(tmp_path / "t.parquet", tmp_path / "out", per_shard=5)
    assert [row["reason"] for row in rows] == [None, None, "missing", "no_image", "unknown_format", None]
    assert [sample.image for sample in samples] == [image_bytes(1), image_bytes(9), image_bytes(2, "PNG")]
    assert [sample.caption for sample in samples] == ["1", "2", "6"]


def test_rows_behind_the_place_where_a_table_is_damaged_are_lost_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    images = [np.random.default_rng(i).bytes(20_000) + image_bytes(i) for i in range(6)]
    pq.write_table(
        pa.table({"image": images, "caption": ["x"] * 6}), path, row_group_size=2, compression="none", use_dictionary=False
    )
    (part,) = find_parts("members", str(path), None, 10)
    assert isinstance(part, FilePart)
    content = bytearray(path.read_bytes())
    start = content.index(images[2][:100])
    content[start - 60 : start] = b"\xff" * 60
    path.write_bytes(content)
    assert pack_part(part, str(tmp_path / "out"), MAX_PIXELS) == 6
    rows = pq.read_table(tmp_path / "out" / "attrition" / "members-00000.parquet").to_pylist()
    assert [row["reason"] for row in rows] == ["unknown_format"] * 2 + ["unreadable_table"] * 4


def test_what_a_table_of_images_in_bytes_holds_is_packed_without_names(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"image": pa.array([IMAGE, IMAGE], pa.large_binary()), "text": ["a", None]}), tmp_path / "t.parquet"
    )
    rows, samples = packed(tmp_path / "t.parquet", tmp_path / "out")
    assert [(row["source"], row["flags"]) for row in rows] == [("row-00000000", ""), ("row-00000001", "no_caption")]
    assert [sample.key for sample in samples] == ["row-00000000", "row-00000001"]


def test_a_part_whose_process_is_killed_is_packed_again_into_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(300):
        (tmp_path / "in" / f"{number:03d}.png").write_bytes(image_bytes(number, "PNG"))
        (tmp_path / "in" / f"{number:03d}.txt").write_text(f"caption {number}")
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    (part,) = find_parts("members", str(tmp_path / "in"), None, 1000)
    assert not isinstance(part, DroppedPart)
    code = (
        "import sys; from raymia.curation.inputs import find_parts; from raymia.curation.pack import pack_part\n"
        "(part,) = find_parts('members', sys.argv[1], None, 1000); pack_part(part, sys.argv[2], 64_000_000)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "in"), str(out)])
    until = time.monotonic() + 120
    while not any(path.stat().st_size for path in (out / "shards").glob(".*")) and time.monotonic() < until:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.name[0] for path in (out / "shards").iterdir()] == ["."]
    assert pack_part(part, str(out), MAX_PIXELS) == pack_part(part, str(undisturbed), MAX_PIXELS) == 300
    assert contents(out) == contents(undisturbed)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_table_beside_a_tar_that_is_not_img2datasets_is_told_and_one_that_is_damaged_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes([("0.jpg", IMAGE), ("0.txt", b"x")]))
    pd.DataFrame({"uid": ["0"], "url": ["http://h/0"]}).to_parquet(tmp_path / "x.parquet")
    (part,) = find_parts("members", str(tmp_path), None, 10)
    assert not isinstance(part, DroppedPart)
    assert pack_part(part, str(tmp_path / "out"), MAX_PIXELS) == 1
    rows = pq.read_table(tmp_path / "out" / "attrition" / "members-00000.parquet").to_pylist()
    assert [(row["source"], row["stage"], row["reason"]) for row in rows] == [
        (f"{tmp_path}/x.parquet", "list", "other_table"),
        ("0", None, None),
    ]
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(
        ConfigError, match=rf"{tmp_path}/x.parquet: is not Parquet.*; move it away from its shard, or fetch again"
    ):
        pack_part(part, str(tmp_path / "out"), MAX_PIXELS)


def test_the_source_of_an_image_in_a_shard_is_the_one_in_the_table_without_secrets(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "00000.tar").write_bytes(tar_bytes([("0.jpg", IMAGE), ("0.txt", b"x")]))
    url = "https://user:p@ss/word@host/a.jpg?sig=secret#secret"
    rows = {"key": ["0", "1", "2"], "url": [url, url, None], "status": ["success", "failed_to_download", None]}
    pq.write_table(pa.table(rows | {"error_message": [None, f"timed out: {url}", None]}), tmp_path / "in" / "00000.parquet")
    found, _ = packed(tmp_path / "in", tmp_path / "out")
    assert [(row["source"], row["detail"]) for row in found] == [
        ("https://host/a.jpg", None),
        ("https://host/a.jpg", "timed out: https://host/a.jpg"),
        ("2", ""),
    ]
    shard = (tmp_path / "out" / "shards" / "members-00000.tar").read_bytes()
    facts = json.loads(shard[shard.index(b'{"caption"') : shard.index(b"}", shard.index(b'{"caption"')) + 1])
    assert facts == {"caption": "x", "source": "https://host/a.jpg"}
    assert not any(word in shard for word in (b"ss/word", b"secret"))


def told(shards: list[RawSample]) -> dict[str, dict[str, str]]:
    """What is said of each image in its shard, beside caption and source."""
    beside = {sample.key: json.loads(sample.facts) for sample in shards}
    return {
        key: {name: text for name, text in facts.items() if name not in ("caption", "source")} for key, facts in beside.items()
    }


def test_what_is_said_of_a_work_is_packed_with_it_wherever_it_stands(tmp_path: Path) -> None:
    told_beside = {"published": "2024-05-01", "published_at": "https://a.org", "reserved": "yes", "url": "https://a.org/1?x=2"}
    # Shards hold no queries, which may be anybody's keys.
    said = {"url_without_query": "https://a.org/1", **told_beside}
    del said["url"]
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.jpg").write_bytes(IMAGE)
    (folder / "a.json").write_text(json.dumps({"caption": "x", "sha256": "0" * 64, **told_beside}), encoding="utf-8-sig")
    (folder / "b.json").write_text(json.dumps({"published": 2024, "reserved": True, "URL": "https://u:p@a.org/1#x"}))
    of_b = {"url": "https://a.org/1", "published": "2024", "reserved": "True"}
    _, samples = packed(folder, tmp_path / "one")
    assert told(samples) == {"a": said, "b": of_b, "c": {}}
    # A tar that was packed says the same when it is packed again, and so does a table.
    _, again = packed(tmp_path / "one" / "shards", tmp_path / "two")
    assert told(again) == told(samples)
    pd.DataFrame([{"file": "folder/a.jpg", "caption": "x", **told_beside}, {"file": "folder/c.jpg"}]).to_csv(tmp_path / "t.csv")
    assert told(packed(tmp_path / "t.csv", tmp_path / "three")[1]) == {"folder/a": said, "folder/c": {}}
    held = [{"image": {"bytes": IMAGE, "path": f"{name}.jpg"}, "caption": "x"} for name in "ab"]
    kinds = pa.schema([("image", HUB), ("caption", pa.string()), ("published", pa.date32())])
    days = [datetime.date(2024, 5, 1), None]
    pq.write_table(
        pa.Table.from_pylist([row | {"published": day} for row, day in zip(held, days, strict=True)], kinds),
        tmp_path / "h.parquet",
    )
    assert told(packed(tmp_path / "h.parquet", tmp_path / "four")[1]) == {"a": {"published": "2024-05-01"}, "b": {}}


def test_a_table_of_captions_may_say_when_and_the_json_beside_an_image_the_rest(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(IMAGE)
    (tmp_path / "in" / "a.json").write_text(json.dumps({"caption": "not this", "published": "2020", "reserved": "no"}))
    (tmp_path / "c.csv").write_text("file,caption,published\n,,\na.jpg,this,2024\n")
    (part, _) = find_parts("all", str(tmp_path / "in"), str(tmp_path / "c.csv"), 10)
    assert not isinstance(part, DroppedPart)
    pack_part(part, str(tmp_path / "out"), MAX_PIXELS)
    (sample, _) = read_shard(str(tmp_path / "out" / "shards" / "all-00000.tar"))
    assert isinstance(sample, RawSample)
    assert (sample.caption, told([sample])) == ("this", {"a": {"published": "2024", "reserved": "no"}})
