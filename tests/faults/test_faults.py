"""Everything that goes wrong on a cluster of spot nodes, done to real scans; the table must be that of an undisturbed one."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pandas as pd
import pytest
import yaml
from pandas.testing import assert_frame_equal
from ray.cluster_utils import Cluster
from safetensors.torch import load_file, save_file

from raymia.run.ledger import Ledger
from raymia.testbed.architecture import save_tiny
from tests.conftest import without_ray
from tests.faults.conftest import POOL, SHARDS, SLOW, UNIT, Scan, attacks, replica_processes

MakeScan = Callable[[str], Scan]
Table = dict[str, bytes]
ALL = sum(SHARDS.values())


def assert_same(scan: Scan, undisturbed: Table, threads_alike: bool = True) -> None:
    """The scan ends well, with the files of an undisturbed one; where its replicas have other threads, to rounding."""
    code, output = scan.end()
    assert code == 0, output
    if threads_alike:
        assert scan.table() == undisturbed
        return
    assert scan.table().keys() == undisturbed.keys()
    found, expected = read(scan.table()), read(undisturbed)
    assert_frame_equal(found, expected, check_exact=False, rtol=1e-4)


def test_an_actor_killed_by_the_system_and_a_node_removed(make_scan: MakeScan, undisturbed: Table, cluster: Cluster) -> None:
    node = cluster.add_node(num_cpus=1, num_gpus=1)
    scan = make_scan("scan")
    scan.start(pool={**POOL, "replicas": 2}, attacks=SLOW)
    scan.wait_for_units(3)
    victims = replica_processes()
    assert len(victims) >= 2
    victims[0].kill()
    scan.wait_for_units(5)
    cluster.remove_node(node, allow_graceful=False)
    assert_same(scan, undisturbed, threads_alike=False)


def test_a_node_removed_and_another_added(make_scan: MakeScan, undisturbed: Table, cluster: Cluster) -> None:
    node = cluster.add_node(num_cpus=1, num_gpus=1)
    scan = make_scan("scan")
    elastic = {**POOL, "replicas": None, "min_replicas": 1, "max_replicas": 2}
    scan.start(pool=elastic, attacks=SLOW)
    scan.wait_for_units(3)
    cluster.remove_node(node, allow_graceful=False)
    other = cluster.add_node(num_cpus=1, num_gpus=1)
    assert_same(scan, undisturbed, threads_alike=False)
    cluster.remove_node(other)


def test_a_second_scan_of_a_run_is_refused_and_a_driver_that_was_killed_leaves_no_lock(
    make_scan: MakeScan, undisturbed: Table
) -> None:
    scan = make_scan("scan")
    second = Scan(scan.folder, scan._address)
    slow = attacks(sleep_s=0.5)
    scan.start_apart(attacks=slow)
    scan.wait_for_units(3)
    second.start(attacks=slow)
    code, output = second.end()
    assert code == 2
    assert "is writing it; wait for that scan" in " ".join(output.split())
    scan.kill()
    assert scan.units() < ALL // UNIT, "killed too late to prove anything"
    scan.start(attacks=slow)
    assert_same(scan, undisturbed)


def test_images_larger_than_the_object_store_spill(make_scan: MakeScan, cluster: Cluster) -> None:
    small = cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=80 * 2**20, labels={"store": "small"})
    scan = make_scan("scan")
    pool = {**POOL, "batch_size": 8, "label_selector": {"store": "small"}}
    replica = {"model": "testbed-tiny", "dtype": "float32", "resolution_px": 1024}
    half = {"name": "half", "splits": [{"name": "members", "member": True, "shards": ["m*.tar"]}]}
    (scan.folder / "half.yaml").write_text(yaml.safe_dump(half))
    scan.start(manifest=str(scan.folder / "half.yaml"), pool=pool, replica=replica, attacks={"fragile": {"sleep_s": 0.1}})
    code, output = scan.end()
    cluster.remove_node(small)
    assert code == 0, output
    table = Ledger(str(scan.run)).scores(["key", "fragile"]).to_pandas()
    assert len(table) == SHARDS["m0"] + SHARDS["m1"]  # of 3 MiB each, through a store of 80
    assert table["fragile"].tolist() == [float(sum(map(int, key))) for key in table["key"]]


def test_a_batch_out_of_memory_is_halved_and_a_sample_on_which_the_replica_raises_is_quarantined_alone(
    make_scan: MakeScan, undisturbed: Table
) -> None:
    scan = make_scan("scan")
    with without_ray():
        scan.start(attacks=attacks(largest_batch=2, raise_on="2007"))
        code, output = scan.end()
    assert code == 0, output
    assert f"read {ALL} = scored {ALL - 1} + quarantined 1 (scoring_failed 1)" in " ".join(output.split())
    ledger = Ledger(str(scan.run))
    (bad,) = ledger.quarantine().to_pylist()
    assert (bad["key"], bad["stage"], bad["detail"]) == ("2007", "score", "ValueError: cannot score 2007")
    expected = read(undisturbed)
    expected = expected[expected["key"] != "2007"].reset_index(drop=True)
    found = ledger.scores().to_pandas()
    assert found["key"].tolist() == expected["key"].tolist()
    assert np.abs(found["loss"] - expected["loss"]).max() < 1e-3 * expected["loss"].std()


def test_storage_that_fails_a_third_of_its_writes_under_a_clock_that_goes_backwards(
    make_scan: MakeScan, undisturbed: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = make_scan("scan")
    start, zero = time.time(), time.monotonic()
    with monkeypatch.context() as patch:
        patch.setenv("RAYMIA_TEST_STORAGE", "third")
        patch.setattr(time, "time", lambda: start - 5.0 * (time.monotonic() - zero))
        scan.start(run=f"flaky://{scan.run}")
        code, output = scan.end()
    assert code == 0, output
    assert list(scan.run.rglob("*.torn")), "no write failed"
    assert scan.table() == undisturbed
    run = Ledger(str(scan.run)).require_scan()
    assert run.finished is not None
    assert run.finished < run.started
    assert run.seconds > 0


def test_a_full_disk_stops_the_scan_with_a_clear_word_and_it_resumes(
    make_scan: MakeScan, undisturbed: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = make_scan("scan")
    monkeypatch.setenv("RAYMIA_TEST_STORAGE", "full:9")
    scan.start(run=f"flaky://{scan.run}")
    code, output = scan.end()
    assert code == 1
    assert "storage is full; free space and run the same command again" in " ".join(output.split())
    assert 0 < scan.units() < ALL // UNIT
    monkeypatch.setenv("RAYMIA_TEST_STORAGE", "none")
    with without_ray():
        scan.start(run=f"flaky://{scan.run}")
        assert_same(scan, undisturbed)


class ShardServer(BaseHTTPRequestHandler):
    """Serves byte ranges of the files of a folder, and nothing any more of those that are gone."""

    served = 0

    def __init__(self, folder: Path, *args: object) -> None:
        self.folder = folder
        super().__init__(*args)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = self.folder / self.path.strip("/")
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        first, last = 0, len(content) - 1
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes="):
            one, _, other = asked.removeprefix("bytes=").partition("-")
            first, last = int(one), min(int(other or last), last)
        part = content[first : last + 1]
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        if with_body:
            self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    servers: list[ThreadingHTTPServer] = []

    def start(folder: Path) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(ShardServer, folder))
        servers.append(server)
        Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()


def test_a_shard_that_vanishes_is_quarantined_and_scanned_when_it_is_back(
    make_scan: MakeScan, undisturbed: Table, serve: Callable[[Path], str]
) -> None:
    scan = make_scan("scan")
    address = serve(scan.folder)
    scan.write_job()
    manifest = (scan.folder / "manifest.yaml").read_text()
    by_http = manifest.replace("m*.tar", address + "/m{0..1}.tar").replace("n*.tar", address + "/n{0..1}.tar")
    job = scan.folder / "over_http.yaml"
    job.write_text(by_http)
    hidden = scan.folder / "n1.gone"
    (scan.folder / "n1.tar").rename(hidden)
    scan.start(manifest=str(job), max_quarantined_fraction=1.0)
    code, output = scan.end()
    assert code == 0, output
    assert f"scored {ALL - SHARDS['n1']} + quarantined 1 (missing_shard 1)" in " ".join(output.split())
    hidden.rename(scan.folder / "n1.tar")
    with without_ray():
        scan.start(manifest=str(job), max_quarantined_fraction=1.0)
        assert_same(scan, undisturbed)


def test_a_replica_that_never_starts_ends_the_job_with_its_own_error(make_scan: MakeScan) -> None:
    scan = make_scan("scan")
    model = scan.folder / "broken"
    save_tiny(model)
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["conv_out.bias"][0] = float("nan")  # which headers do not tell
    save_file(tensors, weights, {"format": "pt"})
    start = time.monotonic()
    scan.start(replica={"model": str(model), "dtype": "float32", "resolution_px": 64})
    code, output = scan.end()
    assert code == 1
    assert "conv_out.bias" in output
    assert time.monotonic() - start < 180
    assert (scan.run / "run.json").is_file()


def read(table: Table) -> pd.DataFrame:
    parts = [pd.read_parquet(io.BytesIO(content)) for name, content in sorted(table.items()) if name.startswith("scores/")]
    return pd.concat(parts, ignore_index=True)
