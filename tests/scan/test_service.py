"""Scans of a hosted service: what they cost, their first questions, and what comes of servers that do wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

import raymia
from raymia.config import Job, parse_job
from raymia.errors import ConfigError, RaymiaError
from raymia.run.ledger import Ledger
from raymia.run.record import Paid
from raymia.run.shown import exhibits_of
from raymia.scan.pipeline import run_scan
from raymia.scan.plan import make_plan
from raymia.scan.service import bill_of
from raymia.scan.sweep import load_sweep, run_sweep
from raymia.services.protocol import ServiceStoppedError
from tests.conftest import good_members, tar_bytes, without_ray
from tests.services.faulty import Server, serving, wait_briefly

KEY = "sk-planted-key-of-the-test"
SAMPLES = 6
QUIET = Console(quiet=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_briefly(monkeypatch)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("service")
    splits = []
    for number, (name, member) in enumerate((("members", True), ("non_members", False))):
        (folder / f"{name}.tar").write_bytes(tar_bytes(good_members(SAMPLES // 2, start=10 * number)))
        splits.append({"name": name, "member": member, "shards": [f"{name}.tar"], "samples": SAMPLES // 2})
    (folder / "manifest.yaml").write_text(json.dumps({"name": "set", "splits": splits}))
    return folder / "manifest.yaml"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as serving_one:
        yield serving_one


def job_of(manifest: Path, url: str, run: Path, attacks: dict[str, Any] | None = None, **replica: Any) -> Job:
    section = {"service": "openai", "url": url, "extensions": "muse", "resolution_px": 64, "timeout_s": 5.0, **replica}
    content = {
        "manifest": str(manifest),
        "replica": section,
        "attacks": attacks or {"generation": {"images": 2, "metric": "ssim"}, "pokemon": {"metrics": ["ssim"], "draws": 1}},
        "pool": {"replicas": 1, "batch_size": 4},
        "unit_size": 4,
        "run": str(run),
        "max_quarantined_fraction": 1.0,
    }
    return parse_job(content, "job")


def table_of(run: Path) -> pd.DataFrame:
    return Ledger(str(run)).scores().to_pandas().sort_values(["split", "key"]).reset_index(drop=True)


def test_a_job_says_how_many_images_it_asks_for_and_what_they_cost(manifest: Path, tmp_path: Path) -> None:
    job = job_of(manifest, "http://127.0.0.1:9/v1", tmp_path / "run", price_per_image=0.04)
    bill = bill_of(job, SAMPLES)
    assert (bill.images_per_sample, bill.first_images) == (2 + 3, 4 + 1)
    assert bill.images == 5 * SAMPLES + 5
    assert bill.price == pytest.approx(0.04 * 35)
    calibrated = job_of(manifest, "http://127.0.0.1:9/v1", tmp_path / "run", autoencoder="testbed")
    assert bill_of(calibrated, SAMPLES).images == 35, "what the autoencoder alone makes is made here"
    assert bill_of(job, None).images is None


def test_a_job_over_its_budget_is_refused_before_anything_is_asked(manifest: Path, tmp_path: Path, server: Server) -> None:
    job = job_of(manifest, server.url, tmp_path / "run", price_per_image=0.04, budget=1.39)
    with pytest.raises(ConfigError, match=r"replica\.budget: 1\.39 USD, but the scan asks for 35 images, which cost 1\.40"):
        make_plan(job)
    assert not server.asked
    make_plan(job_of(manifest, server.url, tmp_path / "run", price_per_image=0.04, budget=1.40))


def test_attacks_leave_to_a_service_what_it_cannot_be_told_and_are_refused_where_they_cannot(manifest: Path) -> None:
    plain = {"extensions": "none", "key_env": None}
    job = job_of(manifest, "https://example.org/v1", Path("run"), {"generation": {"metric": "ssim"}}, **plain)
    assert (job.attacks["generation"].steps, job.attacks["generation"].guidance) == (None, None)  # type: ignore[attr-defined]
    assert json.loads(json.dumps(job.identity()))["attacks"]["generation"]["steps"] is None
    with pytest.raises(ConfigError, match=r"attacks\.generation: asks for steps.*set steps: null to do without"):
        job_of(manifest, "https://example.org/v1", Path("run"), {"generation": {"steps": 20, "metric": "ssim"}}, **plain)
    with pytest.raises(ConfigError, match=r"attacks\.pokemon: asks for image_to_image, strength, which service openai"):
        job_of(manifest, "https://example.org/v1", Path("run"), {"pokemon": {}}, **plain)
    muse = {"key_env": None}
    raw = job_of(manifest, "https://example.org/v1", Path("run"), {"pokemon": {"metrics": ["ssim"]}}, **muse)
    assert not raw.attacks["pokemon"].calibrate, "no autoencoder is known"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"asks for reconstruction.*set calibrate: false to do without"):
        job_of(manifest, "https://example.org/v1", Path("run"), {"pokemon": {"calibrate": True, "metrics": ["ssim"]}}, **muse)
    with pytest.raises(ConfigError, match=r"attacks\.generation\.steps: null is a service's own, and a model has none"):
        parse_job(
            {"manifest": "m", "replica": {"model": "testbed"}, "attacks": {"generation": {"steps": None}}, "run": "r"}, "j"
        )


def test_a_noise_level_that_the_server_cannot_be_asked_for_is_refused_before_the_scan(manifest: Path, tmp_path: Path) -> None:
    job = job_of(manifest, "http://127.0.0.1:9/v1", tmp_path / "run", {"rediffuse": {}})
    with pytest.raises(ConfigError, match="timestep 50 in 1 steps: a sampler of leading spacing"):
        make_plan(job)
    make_plan(job_of(manifest, "http://127.0.0.1:9/v1", tmp_path / "run", {"rediffuse": {}}, spacing="trailing"))


@pytest.mark.usefixtures("bare_loop")
def test_a_scan_scores_every_sample_and_says_what_it_asked_and_spent(manifest: Path, tmp_path: Path, server: Server) -> None:
    run = tmp_path / "run"
    job = job_of(manifest, server.url, run, price_per_image=0.04, budget=2.0)
    counts = run_scan(job, QUIET)
    assert (counts.scored, counts.quarantined) == (SAMPLES, 0)
    assert len(server.asked) == 35
    assert [body["prompt"] for body, _ in server.asked].count("picture number 0") == 5
    # The first kind is asked for twice.
    assert list(server.repeated().values()) == [2]
    record = Ledger(str(run)).require_scan()
    assert record.service is not None
    assert (record.service.images, record.service.refusals, record.service.spent) == (35, 0, pytest.approx(1.40))
    assert (record.service.calls.made, record.service.calls.answered, record.service.repeats) == (35, 35, True)
    assert record.evaluations.forwards == 0
    assert record.job.subject == "service openai"
    shown = exhibits_of(Ledger(str(run)), "generation", 12)
    scores = Ledger(str(run)).scores().to_pandas().set_index("key")
    assert [one.similarity for one in shown] == sorted(scores["generation.max"], reverse=True)
    for one in shown:
        (asked,) = [body for body, _ in server.asked if body.get("seed") == one.seed]
        assert asked["prompt"] == scores.loc[one.key, "caption"]
        assert one.image is not None
        assert one.image.startswith(b"\x89PNG")
        assert (run / "answers" / "images" / str(one.answer)[:2] / str(one.answer)).is_file()


@pytest.mark.usefixtures("bare_loop")
def test_a_scan_that_is_run_again_asks_for_nothing_and_one_with_another_attack_for_what_is_new(
    manifest: Path, tmp_path: Path, server: Server
) -> None:
    answers = {"answers": str(tmp_path / "answers")}
    run_scan(job_of(manifest, server.url, tmp_path / "one", {"pokemon": {"metrics": ["ssim"], "draws": 1}}, **answers), QUIET)
    before = len(server.asked)
    run_scan(job_of(manifest, server.url, tmp_path / "one", {"pokemon": {"metrics": ["ssim"], "draws": 1}}, **answers), QUIET)
    assert len(server.asked) == before
    run_scan(job_of(manifest, server.url, tmp_path / "two", {"pokemon": {"metrics": ["ssim"], "draws": 2}}, **answers), QUIET)
    assert len(server.asked) == before + 3 * SAMPLES


@pytest.mark.usefixtures("bare_loop")
@pytest.mark.parametrize("deed", ["500:overloaded", "half", "busy"])
def test_a_service_that_fails_a_third_of_its_calls_changes_no_score(
    manifest: Path, tmp_path: Path, server: Server, deed: str
) -> None:
    run_scan(job_of(manifest, server.url, tmp_path / "undisturbed"), QUIET)
    server.rule = lambda number, body: deed if number % 3 == 0 else "image"
    run_scan(job_of(manifest, server.url, tmp_path / "disturbed", attempts=20), QUIET)
    pd.testing.assert_frame_equal(table_of(tmp_path / "undisturbed"), table_of(tmp_path / "disturbed"))
    record = Ledger(str(tmp_path / "disturbed")).require_scan().service
    assert record is not None
    assert record.calls.failed + record.calls.busy >= 10
    assert record.calls.answered == 35


@pytest.mark.usefixtures("bare_loop")
def test_refusals_and_changed_prompts_are_reasons_of_their_own_and_cost_no_other_sample(
    manifest: Path, tmp_path: Path, server: Server
) -> None:
    deeds = {"picture number 0": "filter", "picture number 1": "image:a nicer picture", "picture number 10": "black"}
    deeds |= {"picture number 11": "small"}
    server.rule = lambda number, body: deeds.get(body["prompt"], "image")
    run = tmp_path / "run"
    counts = run_scan(job_of(manifest, server.url, run), QUIET)
    assert counts.scored + counts.quarantined == counts.read == SAMPLES
    assert counts.by_reason == {"content_filter": 1, "prompt_changed": 1, "blank_answer": 1, "wrong_size": 1}
    asked = len(server.asked)
    run_scan(job_of(manifest, server.url, run), QUIET)
    assert len(server.asked) == asked


@pytest.mark.usefixtures("bare_loop")
def test_a_sample_whose_calls_fail_every_time_is_quarantined_alone_and_is_tried_no_more_than_the_job_says(
    manifest: Path, tmp_path: Path, server: Server
) -> None:
    server.rule = lambda number, body: "500:overloaded" if body["prompt"] == "picture number 1" else "image"
    asks = {"generation": {"images": 1, "metric": "ssim"}}
    counts = run_scan(job_of(manifest, server.url, tmp_path / "run", asks, attempts=3), QUIET)
    assert (counts.scored, counts.by_reason) == (SAMPLES - 1, {"service_failed": 1})
    assert [body["prompt"] for body, _ in server.asked].count("picture number 1") == 3


@pytest.mark.usefixtures("bare_loop")
def test_a_key_that_is_revoked_ends_the_scan_in_a_line_and_another_key_goes_on_from_there(
    manifest: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_scan(job_of(manifest, server.url, tmp_path / "undisturbed"), QUIET)
    server.asked.clear()
    server.rule = lambda number, body: "image" if number < 20 else "401:revoked"
    with pytest.raises(ServiceStoppedError, match=r"the key is not accepted.*answers so far are kept"):
        run_scan(job_of(manifest, server.url, tmp_path / "run", price_per_image=0.04), QUIET)
    server.rule = lambda number, body: "image"
    monkeypatch.setenv("ANOTHER_KEY", "sk-another")
    answered = [body for body, _ in server.asked[:20]]
    run_scan(job_of(manifest, server.url, tmp_path / "run", key_env="ANOTHER_KEY", price_per_image=0.02), QUIET)
    record = Ledger(str(tmp_path / "run")).require_scan().service
    assert record is not None
    assert record.earlier == [Paid(images=20, price_per_image=0.04)]
    assert record.spent == pytest.approx(20 * 0.04 + 15 * 0.02), "images of an earlier price are counted at it"
    pd.testing.assert_frame_equal(table_of(tmp_path / "undisturbed"), table_of(tmp_path / "run"))
    bodies = [body for body, _ in server.asked]
    # The first question alone is asked twice, and what was answered is not asked again.
    assert sum(bodies.count(body) - 1 for body in answered) <= 2


@pytest.mark.usefixtures("bare_loop")
def test_a_first_question_that_is_not_answered_ends_the_scan_before_it_begins(
    manifest: Path, tmp_path: Path, server: Server
) -> None:
    server.rule = lambda number, body: "422:steps must be at most 20" if body["steps"] > 20 else "image"
    with pytest.raises(ConfigError, match=r"does not answer a first question .*steps must be at most 20"):
        run_scan(job_of(manifest, server.url, tmp_path / "run"), QUIET)
    assert not (tmp_path / "run" / "scores").exists()
    server.rule = lambda number, body: "401"
    with pytest.raises(RaymiaError, match="the key is not accepted"):
        run_scan(job_of(manifest, server.url, tmp_path / "run"), QUIET)


@pytest.mark.usefixtures("bare_loop")
def test_a_service_whose_answers_differ_is_said_to(
    manifest: Path, tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    plain = {"extensions": "none"}
    run_scan(job_of(manifest, server.url, tmp_path / "same", {"generation": {"metric": "ssim"}}, **plain), QUIET)
    assert not caplog.records
    with serving() as other:
        numbers = iter(range(1000))
        other.rule = lambda number, body: f"image:{body['prompt']}" if body.setdefault("seed", next(numbers)) >= 0 else ""
        run_scan(job_of(manifest, other.url, tmp_path / "differ", {"generation": {"metric": "ssim"}}, **plain), QUIET)
    record = Ledger(str(tmp_path / "differ")).require_scan().service
    assert record is not None
    assert record.repeats is False
    assert record.difference is not None
    assert record.difference > 0.1
    assert "one question asked twice had two answers" in caplog.text


@pytest.mark.usefixtures("bare_loop")
def test_the_key_stands_in_no_file_of_the_run_and_in_no_line_of_the_log(
    manifest: Path, tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    deeds = ["image", "500", "image", f"422:{KEY} is fine"]
    server.rule = lambda number, body: deeds[number % 4] if number > 8 else "image"
    counts = run_scan(job_of(manifest, server.url, tmp_path / "run", attempts=3), QUIET)
    assert counts.quarantined
    assert any(KEY in headers["Authorization"] for _, headers in server.asked)
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    assert KEY not in caplog.text


def test_images_at_hand_are_scored_in_front_of_a_service_as_in_a_scan(manifest: Path, tmp_path: Path, server: Server) -> None:
    images = [content for name, content in good_members(3) if name.endswith(".jpg")]
    for number, content in enumerate(images):
        (tmp_path / f"{number:04d}.jpg").write_bytes(content)
    files = sorted(tmp_path.glob("*.jpg"))
    captions = [f"picture number {number}" for number in range(3)]
    asks = {"generation": {"images": 2, "metric": "ssim"}}
    options = {"url": server.url, "extensions": "muse", "resolution_px": 64}
    table = raymia.score(files, captions, attacks=asks, service="openai", progress=False, **options)
    with without_ray():
        run_scan(job_of(manifest, server.url, tmp_path / "run", asks), QUIET)
    scanned = table_of(tmp_path / "run").set_index("key").loc[list(table["key"])]
    assert table["generation"].to_numpy() == pytest.approx(scanned["generation"].to_numpy(), abs=1e-6)
    with pytest.raises(ConfigError, match=r"replica\.budget: 0\.10 USD, but the scan asks for 6 images"):
        raymia.score(files, captions, attacks=asks, service="openai", price_per_image=1.0, budget=0.1, **options)
    with pytest.raises(ConfigError, match="model: give a folder"):
        raymia.score(files, captions, attacks=asks)


@pytest.mark.usefixtures("bare_loop")
def test_scans_of_a_sweep_share_their_answers(manifest: Path, tmp_path: Path, server: Server) -> None:
    job = job_of(manifest, server.url, tmp_path / "one", {"generation": {"images": 1, "metric": "ssim"}})
    (tmp_path / "job.json").write_text(job.model_dump_json())
    over = ["max_pixels=1000000,2000000"]
    factors, cells, folder = load_sweep(tmp_path / "job.json", over, None, str(tmp_path / "sweep"))
    run_sweep(factors, cells, folder, QUIET)
    assert len(cells) == 2
    assert len(server.asked) == SAMPLES + 2, "and the first question, twice"


def test_a_scan_on_ray_that_is_killed_asks_again_only_for_what_was_under_way(manifest: Path, tmp_path: Path) -> None:
    asks, in_flight = {"generation": {"images": 4, "metric": "ssim"}}, 4
    total = 4 * SAMPLES + 2
    with serving() as server, without_ray():
        run_scan(job_of(manifest, server.url, tmp_path / "undisturbed", asks, key_env=None), QUIET)
    with serving(seconds=0.2) as server:
        run = tmp_path / "run"
        job = job_of(manifest, server.url, run, asks, in_flight=in_flight, key_env=None)
        (tmp_path / "job.json").write_text(job.model_dump_json())
        command = [sys.executable, "-m", "raymia", "scan", str(tmp_path / "job.json")]
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 120.0
        while len(server.asked) < 10 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        said = process.communicate()[0].decode()
        assert 10 <= len(server.asked) < total, said
        server.seconds = 0.0
        # Ray's own processes end by themselves once the driver is gone, and what they had asked comes to nothing.
        time.sleep(1.0)
        before, kept = len(server.asked), len(list((run / "answers" / "asked").rglob("*.json")))
        assert before - in_flight <= kept <= before
        with without_ray():
            counts = run_scan(job, QUIET)
        assert (counts.scored, counts.quarantined) == (SAMPLES, 0)
        assert len(server.asked) == total + before - kept, "the server's own log"
        record = Ledger(str(run)).require_scan().service
        assert record is not None
        assert (record.images, record.calls.made) == (total, 2 + total - kept), "with the first questions of both attempts"
    pd.testing.assert_frame_equal(table_of(tmp_path / "undisturbed"), table_of(run))
    assert exhibits_of(Ledger(str(run)), "generation", 12)


@pytest.mark.usefixtures("local_ray")
def test_on_ray_a_service_that_is_down_ends_the_scan_in_one_line_and_when_it_is_back_the_scan_goes_on(
    manifest: Path, tmp_path: Path
) -> None:
    asks = {"generation": {"images": 1, "metric": "ssim"}}
    with serving(lambda number, body: "image" if number < 2 else "503:maintenance") as server:
        job = job_of(manifest, server.url, tmp_path / "run", asks, patience_s=1.0, attempts=100, key_env=None)
        expected = r"^scan stopped: service openai at http://127\.0\.0\.1:\d+/v1 has answered nothing for \d+ s "
        with pytest.raises(RaymiaError, match=expected + r"\(last: status 503.*run the same command again to resume$"):
            run_scan(job, QUIET)
        server.rule = lambda number, body: "image"
        assert run_scan(job, QUIET).scored == SAMPLES
        record = Ledger(job.run).require_scan().service
    assert record is not None
    assert record.calls.answered == SAMPLES + 2, "as the gate counted that all processes go through"
    assert exhibits_of(Ledger(job.run), "generation", 12)
