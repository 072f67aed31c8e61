"""Whole scans with a real, tiny diffusers pipeline, on a real local Ray where it is Ray's part that is looked at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from raymia.config import Job, parse_job
from raymia.errors import ConfigError
from raymia.run.ledger import Ledger
from raymia.run.record import Counts
from raymia.scan.pipeline import run_scan
from raymia.scan.plan import make_plan
from tests.conftest import good_members, image_bytes, tar_bytes, without_ray
from tests.data.test_images import bomb_header

Write = Callable[[str, list[tuple[str, bytes]]], Path]
ATTACKS = {"loss": {"timesteps": [100, 300], "draws": 1}, "pia": {}, "random": {}, "autoencoder": {}}


def make_job(folder: Path, model: Path, run: str, **changes: Any) -> Job:
    manifest = {
        "name": "set",
        "splits": [
            {"name": "members", "member": True, "shards": ["m*.tar"]},
            {"name": "non_members", "member": False, "shards": ["n*.tar"]},
        ],
    }
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    content = {
        "manifest": str(folder / "manifest.yaml"),
        "replica": {"model": str(model), "dtype": "float32", "resolution_px": 64},
        "attacks": ATTACKS,
        "pool": {"replicas": 1, "gpus_per_replica": 0, "batch_size": 8},
        "unit_size": 8,
        "run": str(folder / run),
    }
    return parse_job({**content, **changes}, "job")


def scan(job: Job) -> tuple[Counts, pd.DataFrame]:
    counts = run_scan(job, Console(quiet=True))
    return counts, table(job)


def table(job: Job) -> pd.DataFrame:
    """The scores of a finished run."""
    return Ledger(job.run).scores().to_pandas().sort_values(["split", "shard", "key"], ignore_index=True)


def write_shards(folder: Path) -> None:
    for name, count, start in (("m0", 20, 0), ("m1", 5, 20), ("n0", 18, 100)):
        (folder / f"{name}.tar").write_bytes(tar_bytes(good_members(count, start=start)))


@pytest.fixture
def good_shards(tmp_path: Path) -> None:
    write_shards(tmp_path)


@pytest.fixture(scope="module")
def scanned_once(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Counts]:
    """Shards and their finished run, `one`, by a bare loop, with its counts. A test that scans further does so to a copy."""
    folder = tmp_path_factory.mktemp("scanned")
    write_shards(folder)
    with without_ray():
        counts, _ = scan(make_job(folder, tiny, "one"))
    return folder, counts


@pytest.fixture
def folder(scanned_once: tuple[Path, Counts]) -> Iterator[Path]:
    """The shards, their run `one`, and a copy of it, `run`."""
    folder = scanned_once[0]
    shutil.copytree(folder / "one", folder / "run")
    yield folder
    shutil.rmtree(folder / "run")


@pytest.mark.usefixtures("local_ray")
def test_batch_size_and_actors_change_no_score_beyond_rounding(scanned_once: tuple[Path, Counts], tiny: Path) -> None:
    folder, counts = scanned_once
    one = table(make_job(folder, tiny, "one"))
    assert (counts.read, counts.scored, counts.quarantined) == (43, 43, 0)
    _, two = scan(make_job(folder, tiny, "two", pool={"replicas": 2, "gpus_per_replica": 0, "batch_size": 5}))
    identity = ["split", "shard", "key", "unit", "member", "caption", "image_sha256", "width", "height", "jpeg_bytes"]
    pd.testing.assert_frame_equal(one[identity], two[identity])
    for name in ("loss", "loss.t=100", "pia", "pia.normalised", "autoencoder", "random"):
        assert np.abs(one[name] - two[name]).max() < 1e-3 * one[name].std(), name


@pytest.mark.usefixtures("bare_loop")
def test_a_resumed_scan_rescores_only_what_was_missing_and_ends_byte_identical(folder: Path, tiny: Path) -> None:
    job = make_job(folder, tiny, "run")
    run = folder / "run"
    files = {path: path.read_bytes() for path in sorted((run / "scores").rglob("*.parquet"))}
    assert [path.name for path in files] == ["m0.shard.parquet", "m1.shard.parquet", "n0.shard.parquet"]
    (run / "scores" / "members" / "m0.shard.parquet").unlink()
    (run / "shards" / "members" / "m0.json").unlink()
    kept = run / "scores" / "non_members" / "n0.shard.parquet"
    before = kept.stat().st_mtime_ns
    counts, _ = scan(job)
    assert counts.scored == 43
    assert kept.stat().st_mtime_ns == before
    assert {path: path.read_bytes() for path in files} == files
    record = json.loads((run / "run.json").read_text())
    assert record["attempts"] == 2
    assert record["stages"]["model"] > 0
    assert record["bottleneck"]["stage"] in ("read", "decode", "transfer", "model", "commit")


@pytest.mark.usefixtures("bare_loop")
def test_a_changed_job_is_refused_with_the_fields_that_differ_and_pool_may_change(folder: Path, tiny: Path) -> None:
    with pytest.raises(ConfigError, match=r"job\.seed: 0 -> 1"):
        scan(make_job(folder, tiny, "run", seed=1))
    with pytest.raises(ConfigError, match=r"attacks\.loss\.draws: 1 -> 2"):
        scan(make_job(folder, tiny, "run", attacks={**ATTACKS, "loss": {"timesteps": [100, 300], "draws": 2}}))
    scan(make_job(folder, tiny, "run", pool={"replicas": 1, "gpus_per_replica": 0, "batch_size": 4}))


@pytest.mark.usefixtures("bare_loop")
def test_hostile_shards_are_scanned_to_the_end_and_every_sample_is_accounted_for(
    tmp_path: Path, tiny: Path, write_tar: Write
) -> None:
    trap = f"cos\nsystem\n(S'touch {tmp_path}/owned'\ntR.".encode()
    bad: list[tuple[str, bytes]] = [
        ("ok.jpg", image_bytes(1)),
        ("ok.txt", b"fine"),
        ("ok.pkl", trap),
        ("zero.jpg", b""),
        ("zero.txt", b"x"),
        ("corrupt.png", image_bytes(2, "PNG")[:900]),
        ("corrupt.txt", b"x"),
        ("bomb.png", bomb_header(60000, 60000)),
        ("bomb.txt", b"x"),
        ("lonely.txt", b"no image"),
        ("nocaption.jpg", image_bytes(3)),
        ("latin.jpg", image_bytes(4)),
        ("latin.txt", b"caf\xe9"),
        ("ok.jpg", image_bytes(5)),
        ("ok.txt", b"again"),
    ]
    write_tar("m0.tar", bad)
    cut = tar_bytes(good_members(6))
    (tmp_path / "m1.tar").write_bytes(cut[: len(cut) // 2])
    (tmp_path / "m2.tar").write_bytes(b"")
    (tmp_path / "m3.tar").write_bytes(b"not a tar" * 200)
    (tmp_path / "m4.tar").mkdir()
    write_tar("n0.tar", good_members(9, start=50))
    job = make_job(tmp_path, tiny, "run")
    counts, found = scan(job)
    assert counts.scored + counts.quarantined == counts.read
    expected = {"empty_image", "corrupt_image", "too_many_pixels", "no_image", "duplicate_key"}
    expected |= {"truncated_sample", "truncated_shard", "empty_shard", "not_a_tar", "unreadable_shard"}
    assert set(counts.by_reason) == expected
    assert counts.flagged == {"no_caption": 1, "caption_not_utf8": 1}
    assert set(found[found.shard == "m0"].key) == {"ok", "nocaption", "latin"}
    assert (found.split == "non_members").sum() == 9
    assert not (tmp_path / "owned").exists()


@pytest.mark.usefixtures("good_shards")
def test_a_jobs_limits_reach_the_readers_of_its_shards(tmp_path: Path, tiny: Path) -> None:
    limits = {"max_image_bytes": 1000, "read_timeout_s": 5.0, "attempts": 2}
    plan = make_plan(make_job(tmp_path, tiny, "run", limits=limits))
    assert {reader.limits.max_image_bytes for reader in plan.readers} == {1000}
    assert {(reader.remote.idle_timeout_s, reader.remote.attempts) for reader in plan.readers} == {(5.0, 2)}
    faults = [item.fault.reason for item in plan.readers[0].read() if item.fault]
    assert set(faults) == {"too_many_bytes"}
    with pytest.raises(ConfigError, match="more than"):
        make_plan(make_job(tmp_path, tiny, "run", limits={"max_shards": 1}))
