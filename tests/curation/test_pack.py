from __future__ import annotations

import io
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from rich.console import Console

from raymia.curation.attrition import analyse, fetch_reason
from raymia.curation.inputs import find_parts
from raymia.curation.pack import pack, pack_manifest
from raymia.data.index import summarise_shard, verify
from raymia.data.manifest import Manifest, load_manifest
from raymia.data.selection import shard_readers
from raymia.data.tar import RawSample
from raymia.errors import ConfigError
from tests.conftest import image_bytes, tar_bytes

# WebDataset leaves it to the garbage collector to close what it has read.
pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")]
CONSOLE = Console(stderr=True)
SAFE_KEY = re.compile(r"[A-Za-z0-9_/-]+")


def folder_of(path: Path, count: int = 5) -> str:
    (path / "deep").mkdir(parents=True)
    for i in range(count):
        (path / "deep" / f"picture.{i}.png").write_bytes(image_bytes(i, "PNG"))
        (path / "deep" / f"picture.{i}.txt").write_text(f"caption {i}\n")
    (path / "broken.jpg").write_bytes(b"nonsense")
    return str(path)


def pack_folder(source: str, out: Path) -> tuple[Manifest, list[dict[str, str | None]]]:
    pack("set", {"members": True}, find_parts("members", source, None, 2), str(out), CONSOLE)
    return load_manifest(str(out / "manifest.yaml"))[0], pq.read_table(out / "attrition.parquet").to_pylist()


def test_a_folder_is_packed_into_the_same_bytes_each_time_with_every_image_accounted_for(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "images")
    manifest, attrition = pack_folder(source, tmp_path / "one")
    assert manifest == pack_folder(source, tmp_path / "two")[0]
    assert manifest.samples == 5
    assert attrition[0]["source"] == "broken.jpg"
    assert [row["reason"] for row in attrition] == ["unknown_format", None, None, None, None, None]
    readers = shard_readers(manifest, str(tmp_path / "one"))
    assert verify(manifest, [summarise_shard(reader) for reader in readers]) == []
    samples = [item for reader in readers for item in reader.read() if isinstance(item, RawSample)]
    assert [sample.key for sample in samples] == [f"deep/picture_{i}" for i in range(5)]
    assert [sample.caption for sample in samples] == [f"caption {i}" for i in range(5)]
    assert samples[0].image == image_bytes(0, "PNG")


def read_by_webdataset(manifest: Manifest, folder: Path) -> list[tuple[str, str]]:
    """Keys and captions, as WebDataset's own library reads them."""
    shards = [str(folder / name) for split in manifest.splits for name in split.shards]
    samples = webdataset.WebDataset(shards, resampled=False, shardshuffle=False)
    return [(sample["__key__"], sample["txt"].decode()) for sample in samples]


def read_by_raymia(manifest: Manifest, folder: Path) -> list[tuple[str, str]]:
    items = [item for reader in shard_readers(manifest, str(folder)) for item in reader.read()]
    samples = [item for item in items if isinstance(item, RawSample)]
    assert [sample.fault for sample in samples] == [None] * len(samples)
    return [(sample.key, sample.caption) for sample in samples]


def packed_keys(attrition: list[dict[str, str | None]]) -> list[str | None]:
    return [row["key"] for row in attrition if row["stage"] is None]


def test_what_is_packed_is_read_by_webdataset_with_equal_keys_and_captions(tmp_path: Path) -> None:
    manifest, attrition = pack_folder(folder_of(tmp_path / "images"), tmp_path / "out")
    found = read_by_webdataset(manifest, tmp_path / "out")
    assert found == [(f"deep/picture_{i}", f"caption {i}") for i in range(5)]
    assert found == read_by_raymia(manifest, tmp_path / "out")
    assert [key for key, _ in found] == packed_keys(attrition)


def test_files_whose_names_are_alike_or_hold_what_no_key_may_are_packed_under_distinct_keys(tmp_path: Path) -> None:
    names = ["__a__/x.1.png", "a__/x.1.png", "dir.v1/y.png", "dir v1/y.png", "Bild \u00e4.png", "Bild \u00f6.png"]
    for number, name in enumerate(names):
        (tmp_path / "images" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "images" / name).write_bytes(image_bytes(number, "PNG"))
    table = pd.DataFrame({"file": [*names, names[-1]], "caption": [*names, "the same file again"]})
    table.to_csv(tmp_path / "images" / "table.csv")
    manifest, attrition = pack_folder(str(tmp_path / "images" / "table.csv"), tmp_path / "out")
    found = read_by_webdataset(manifest, tmp_path / "out")
    assert found == read_by_raymia(manifest, tmp_path / "out")
    assert [caption for _, caption in found] == [*names, "the same file again"]
    assert len({key for key, _ in found}) == 7
    assert all(SAFE_KEY.fullmatch(key) for key, _ in found)
    assert [key for key, _ in found] == packed_keys(attrition)


def test_a_tar_is_packed_again_without_dots_in_its_keys_and_with_the_rest_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    keys = ["a.b", "a.c", "a_c", "dir.v1/0001", "__m__/x", ".hidden", "\u00e4 \u00f6", "gone.gone"]
    members = [(f"{key}.{kind}", content) for key in keys for kind, content in (("jpg", image_bytes(1)), ("txt", key.encode()))]
    members[-2] = ("gone.gone.jpg", b"nonsense")
    (tmp_path / "tars" / "0.tar").write_bytes(tar_bytes(members))
    manifest, attrition = pack_folder(str(tmp_path / "tars"), tmp_path / "out")
    found = read_by_webdataset(manifest, tmp_path / "out")
    assert found == read_by_raymia(manifest, tmp_path / "out") == sorted(found)
    names = {caption: key for key, caption in found}
    assert names.keys() == set(keys[:-1])
    assert [names[key] for key in ("a.b", "a_c", "dir.v1/0001", "__m__/x", ".hidden", "\u00e4 \u00f6")] == [
        "a_b",
        "a_c",
        "dir_v1/0001",
        "m__/x",
        "_hidden",
        "\u00e4 \u00f6",
    ]
    assert re.fullmatch(r"a_c-[0-9a-f]{8}", names["a.c"])
    assert {row["source"]: row["key"] for row in attrition} == names | {"gone.gone": "gone_gone"}
    assert [row["key"] for row in attrition] == sorted(str(row["key"]) for row in attrition)


def test_packing_goes_on_where_it_was_stopped_and_never_mixes_two_sets(tmp_path: Path) -> None:
    source, out = folder_of(tmp_path / "images"), tmp_path / "out"
    whole, _ = pack_folder(source, out)
    for name in ("manifest.yaml", "attrition.parquet", "attrition/members-00001.parquet", "shards/members-00001.tar"):
        (out / name).unlink()
    kept = (out / "shards" / "members-00000.tar").stat().st_mtime_ns
    assert pack_folder(source, out)[0] == whole
    assert (out / "shards" / "members-00000.tar").stat().st_mtime_ns == kept
    with pytest.raises(ConfigError, match="packed from other images"):
        pack_folder(folder_of(tmp_path / "other", 3), out)


def test_what_a_folder_holds_is_packed_or_has_a_row_and_what_is_easily_overlooked_is_said(tmp_path: Path) -> None:
    source = tmp_path / "images"
    folder_of(source, 3)
    (source / "a.jfif").write_bytes(image_bytes(7))
    (source / "stray.tar").write_bytes(tar_bytes([("b.jpg", image_bytes(8)), ("c.jpg", b"nonsense")]))
    for name in ("._a.jfif", "notes.md", "x.xmp", "y.xmp"):
        (source / name).write_bytes(b"text")
    said = io.StringIO()
    console = Console(file=said, width=80)
    parts = find_parts("members", str(source), None, 2)
    manifest, losses = pack("set", {"members": True}, parts, str(tmp_path / "out"), console)
    (split,) = losses.splits
    assert (split.attempted, split.decoded, manifest.samples) == (7, 5, 5)
    assert split.lost == {"unknown_format": 2}
    assert split.passed_over == {"not_an_image": 3, "dropping": 1}
    assert split.flags == {"no_caption": 2}
    rows = pq.read_table(tmp_path / "out" / "attrition.parquet").to_pylist()
    assert len(rows) == split.attempted + sum(split.passed_over.values())
    assert said.getvalue().splitlines()[-3:] == [
        "members: no_caption 2, such as 'a.jfif'",
        "members: dropping 1, such as '._a.jfif'",
        "members: not_an_image 3 (.xmp 2, .md 1), such as 'notes.md'",
    ]
    # What systems leave in a folder meanwhile does not make it another data set.
    (source / ".DS_Store").write_bytes(b"")
    again, losses = pack("set", {"members": True}, find_parts("members", str(source), None, 2), str(tmp_path / "out"), console)
    assert again == manifest
    assert losses.splits[0].passed_over == {"not_an_image": 3, "dropping": 2}


def test_a_set_that_is_packed_into_the_folder_of_its_images_does_not_grow(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "images")
    out = tmp_path / "images" / "packed"
    first, attrition = pack_folder(source, out)
    (out / "manifest.yaml").unlink()
    (out / "shards" / ".members-00001.tar.1").write_bytes(image_bytes(1))
    again, later = pack_folder(source, out)
    assert again == first
    assert later[:-1] == attrition
    assert (later[-1]["source"], later[-1]["stage"], later[-1]["reason"]) == ("packed/", "list", "packed_set")


def test_a_folder_of_output_that_somebody_damaged_is_mended_or_named(tmp_path: Path) -> None:
    source, out = folder_of(tmp_path / "images"), tmp_path / "out"
    whole, _ = pack_folder(source, out)
    (out / "shards" / "members-00001.tar").unlink()
    assert pack_folder(source, out)[0] == whole
    assert (out / "shards" / "members-00001.tar").is_file()
    table = out / "attrition" / "members-00001.parquet"
    content = table.read_bytes()
    for damaged in (content[: len(content) // 2], b""):
        table.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"attrition/members-00001\.parquet: is damaged .*; remove it, and run"):
            pack_folder(source, out)
    table.unlink()
    assert pack_folder(source, out)[0] == whole
    (out / "pack.json").write_text('{"name": ')
    with pytest.raises(ConfigError, match=r"pack\.json: not JSON.*; remove the folder, or choose another --out"):
        pack_folder(source, out)


def test_what_img2dataset_fetched_is_packed_by_key_and_what_it_could_not_fetch_is_told(tmp_path: Path) -> None:
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    members = [(f"{i:08d}.{kind}", content) for i in (2, 0) for kind, content in (("jpg", image_bytes(i)), ("txt", b"c"))]
    (fetched / "00000.tar").write_bytes(tar_bytes(members))
    rows = {"key": ["00000002", "00000001", "00000000"], "url": ["http://h/2", "http://h/1", "http://h/0"]}
    rows |= {"status": ["success", "failed_to_download", "success"], "error_message": [None, "HTTP Error 404: gone", None]}
    pq.write_table(pa.table(rows), fetched / "00000.parquet")
    manifest, attrition = pack_folder(str(fetched), tmp_path / "out")
    assert manifest.samples == 2
    assert [[row["key"], row["stage"], row["reason"]] for row in attrition] == [
        ["00000000", None, None],
        ["00000001", "fetch", "http_404"],
        ["00000002", None, None],
    ]
    (reader,) = shard_readers(manifest, str(tmp_path / "out"))
    assert [item.key for item in reader.read() if isinstance(item, RawSample)] == ["00000000", "00000002"]


def test_a_selection_becomes_shards_of_its_own_in_any_process(tmp_path: Path) -> None:
    pack_folder(folder_of(tmp_path / "images"), tmp_path / "out")
    keys = ["deep/picture_1", "deep/picture_4"]
    table = pd.DataFrame({"split": "members", "shard": ["members-00001", "members-00002"], "key": keys})
    table.to_parquet(tmp_path / "out" / "selection.parquet")
    path = tmp_path / "out" / "few.yaml"
    path.write_text((tmp_path / "out" / "manifest.yaml").read_text() + "selection: selection.parquet\n")
    for _ in range(2):
        made, attrition = pack_manifest(str(path), "few", str(tmp_path / "few"), CONSOLE)
    assert (made.samples, made.selection) == (2, None)
    assert attrition.splits[0].attempted == 2


def test_a_list_of_urls_needs_the_program_that_fetches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pd.DataFrame({"URL": ["http://h/0"], "TEXT": ["a"]}).to_parquet(tmp_path / "urls.parquet")
    source = f"{{table: {tmp_path}/urls.parquet, url_column: URL, caption_column: TEXT}}"
    path = tmp_path / "m.yaml"
    path.write_text(f"name: urls\nsplits:\n- {{name: members, member: true, source: {source}}}\n")
    with pytest.raises(ConfigError, match="raymia data pack"):
        shard_readers(*load_manifest(str(path)))
    monkeypatch.setenv("RAYMIA_IMG2DATASET", "no-such-program")
    with pytest.raises(ConfigError, match="img2dataset not found"):
        pack_manifest(str(path), None, str(tmp_path / "out"), CONSOLE)


def test_splits_that_lost_samples_at_different_rates_are_told_apart_from_splits_that_did_not() -> None:
    def lost(members: int, others: int) -> pd.DataFrame:
        rows = [("members", i < members) for i in range(1000)] + [("non_members", i < others) for i in range(1000)]
        table = pd.DataFrame(rows, columns=["split", "gone"])
        return table.assign(stage=table["gone"].map({True: "fetch"}), reason=table["gone"].map({True: "http_404"}))

    labels = {"members": True, "non_members": False}
    assert "different rates (members 30.0%, non_members 10.0%)" in analyse(lost(300, 100), labels).statement
    assert analyse(lost(300, 300), labels).statement.startswith("No sign")


def test_messages_of_a_downloader_become_short_words() -> None:
    messages = [
        "HTTP Error 403: no",
        "<urlopen error timed out>",
        "[Errno 111] Connection refused",
        "odd",
        None,
    ]
    assert [fetch_reason(m) for m in messages] == ["http_403", "timeout", "no_connection", "download_failed", "download_failed"]
