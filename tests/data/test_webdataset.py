from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import webdataset

from raymia.curation.writing import write_tar
from raymia.data.tar import RawSample, ShardEnd, read_shard
from tests.conftest import image_bytes

# WebDataset leaves it to the garbage collector to close what it has read.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
SAMPLES = [(f"d/{i:04d}", {"png": image_bytes(i, "PNG"), "txt": f"picture {i} \u00e4".encode()}) for i in range(5)]
LONG = "folder/" * 30 + "\u00e4"


def read(path: Path) -> list[tuple[str, bytes | None, str]]:
    *samples, end = read_shard(str(path))
    assert isinstance(end, ShardEnd)
    assert end.fault is None
    return [(s.key, s.image, s.caption) for s in samples if isinstance(s, RawSample) and s.fault is None]


@pytest.mark.parametrize("side_car", ["txt", "json"])
def test_what_webdataset_writes_is_read(tmp_path: Path, side_car: str) -> None:
    with webdataset.ShardWriter(str(tmp_path / "%02d.tar"), maxcount=2, verbose=0) as shards:
        for key, files in SAMPLES:
            caption = files["txt"].decode()
            facts = {"txt": caption} if side_car == "txt" else {"json": {"caption": caption, "width": 80}}
            shards.write({"__key__": key, "jpg": files["png"], "seg.png": files["png"], "cls": 7, **facts})
    found = [sample for path in sorted(tmp_path.glob("*.tar")) for sample in read(path)]
    assert found == [(key, files["png"], files["txt"].decode()) for key, files in SAMPLES]


def test_what_is_written_is_read_by_webdataset_and_by_raymia(tmp_path: Path) -> None:
    written = [*SAMPLES, (LONG, SAMPLES[0][1])]
    with (tmp_path / "a.tar").open("wb") as stream:
        assert write_tar(stream, written) == 6
    found = [*webdataset.WebDataset(str(tmp_path / "a.tar"), resampled=False, shardshuffle=False)]
    assert [(s["__key__"], {"png": s["png"], "txt": s["txt"]}) for s in found] == written
    assert read(tmp_path / "a.tar") == [(key, files["png"], files["txt"].decode()) for key, files in written]


def test_samples_are_grouped_as_webdataset_groups_them(tmp_path: Path) -> None:
    members = {"jpg": SAMPLES[0][1]["png"], "seg.png": b"mask", "seg.txt": b"of the mask", "txt": b"of the image", "cls": b"1"}
    with (tmp_path / "a.tar").open("wb") as stream:
        write_tar(stream, [(key, members) for key in ("0001", "dir.v1/0001", "dir.v1/0002")])
    found = [*webdataset.WebDataset(str(tmp_path / "a.tar"), resampled=False, shardshuffle=False)]
    assert read(tmp_path / "a.tar") == [(s["__key__"], s["jpg"], s["txt"].decode()) for s in found]
    assert len(found) == 3


def test_the_same_samples_give_the_same_bytes_whoever_writes_them_and_when(monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    for now in (1e9, 2e9):
        monkeypatch.setattr("time.time", lambda now=now: now)
        stream = io.BytesIO()
        write_tar(stream, SAMPLES)
        written.append(stream.getvalue())
    assert written[0] == written[1]
    with tarfile.open(fileobj=io.BytesIO(written[0])) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar} == {(0, 0, 0, "", "", 0o644)}


@pytest.mark.parametrize("extension", ["pyd", "pickle", "pth", "json", "cls"])
def test_nothing_but_bytes_is_written_so_nothing_is_ever_pickled(extension: str) -> None:
    with pytest.raises(ValueError, match="bytes"):
        write_tar(io.BytesIO(), [("a", {extension: json})])  # type: ignore[dict-item]
