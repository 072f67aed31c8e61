"""Every command, invoked as a user does; most in one chain over a small set of pictures."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer
import yaml
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

import raymia.testbed
from raymia.bench import shapes
from raymia.cli import app
from raymia.errors import ConfigError
from raymia.run.ledger import Ledger
from raymia.scan.plan import make_plan
from raymia.testbed import LORA
from tests.conftest import without_ray

ELSEWHERE = {
    "submit": "tests/faults/test_submission.py",
    "bench input": "tests/bench/test_bench.py",
    "verify": "tests/evidence/test_bundle.py",
    "canary plan": "tests/evidence/test_canary.py",
    "canary test": "tests/evidence/test_canary.py",
    "extract": "tests/evidence/test_extraction.py",
}
"""Commands that are invoked in another file of tests."""
INVOKED: set[str] = set()
PER_SIDE = 24
WORDS = ("cow", "tree", "house", "red car", "green boat", "old clock", "blue door", "paper bird")


def run(*words: str | Path, code: int = 0) -> str:
    """Invoke a command in this process; return what it printed."""
    arguments = [str(word) for word in words]
    INVOKED.add(" ".join(arguments[: 2 if arguments[0] in ("data", "bench", "testbed") else 1]))
    done = CliRunner().invoke(app, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return " ".join(done.stdout.split())


def printed(*words: str | Path) -> Any:
    """What a command prints as JSON."""
    return json.loads(run(*words, "--json"))


def every_command() -> Iterator[str]:
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        if hasattr(command, "commands"):
            yield from (f"{name} {inner}" for inner in command.commands)
        else:
            yield name


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of captioned pictures; the last non-member is a twin of a member."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for side in ("theirs", "others"):
        (folder / side).mkdir()
        for i in range(PER_SIDE):
            coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((80, 64), Image.Resampling.BICUBIC).save(folder / side / f"{i:02d}.jpg", quality=90)
            (folder / side / f"{i:02d}.txt").write_text(" ".join(random.choice(WORDS, 3)))
    shutil.copy(folder / "theirs" / "00.jpg", folder / "others" / f"{PER_SIDE - 1:02d}.jpg")
    return folder


@pytest.fixture(scope="module")
def packed(pictures: Path, local_ray: None) -> Path:
    """The pictures as a manifest with features."""
    out = pictures / "packed"
    found = printed("data", "pack", "--member", pictures / "theirs", "--non-member", pictures / "others", "--out", out)
    assert [split["decoded"] for split in found["splits"]] == [PER_SIDE, PER_SIDE]
    assert printed("data", "embed", out / "manifest.yaml", "--clip", "testbed", "--replicas", "1")["scored"] == 2 * PER_SIDE
    return out / "manifest.yaml"


@pytest.fixture(scope="module")
def scanned(packed: Path) -> Path:
    """A scan of the pictures; the path of its job file."""
    job = {
        "manifest": str(packed),
        "replica": {"model": "testbed-tiny", "dtype": "float32", "resolution_px": 64},
        "attacks": {"loss": {"timesteps": [100], "draws": 1}, "random": {}},
        "pool": {"replicas": 1, "gpus_per_replica": 0, "batch_size": 16},
        "run": str(packed.parent / "run"),
    }
    path = packed.parent / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    with without_ray():
        assert f"Next: raymia evaluate {job['run']}" in run("scan", path)
    return path


def test_shards_are_indexed_and_verified(packed: Path, tmp_path: Path) -> None:
    made = run("data", "index", *sorted(packed.parent.glob("shards/*.tar")), "--out", tmp_path / "m.yaml", "--name", "mine")
    assert f"{2 * PER_SIDE} samples in 2 shards" in made
    assert f"{PER_SIDE} keys stand in several shards" in run("data", "verify", tmp_path / "m.yaml")
    manifest = yaml.safe_load((tmp_path / "m.yaml").read_text())
    manifest["splits"][0]["samples"] = 7
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(manifest))
    assert "7 expected" in run("data", "verify", tmp_path / "m.yaml", code=1)


def test_twins_are_found_and_the_rest_is_matched_sanitised_and_split(packed: Path, tmp_path: Path) -> None:
    twins = printed("data", "dedup", packed, "--out", tmp_path / "dedup", "--max-distance", "0.01")
    assert (twins["across"], twins["dropped"]) == (1, {"non_members": 1})
    assert "Twins: 0 within members" in run("data", "dedup", packed, "--out", tmp_path / "dedup", "--max-distance", "0.01")
    manifest = tmp_path / "dedup" / "manifest.yaml"
    assert printed("data", "match", manifest, "--out", tmp_path / "match", "--target-auc", "1")["met"] is True
    assert "Left out: members" in run("data", "sanitise", manifest, "--out", tmp_path / "sanitised")
    shares = printed("data", "split", manifest, "--out", tmp_path / "split", "--share", "0.25")
    assert (shares["members"], shares["non_members"]) == (12, 35)


def test_works_are_found_in_a_list_by_file_and_by_embedding(packed: Path, pictures: Path, tmp_path: Path) -> None:
    features = packed.parent / "features" / "packed"
    known = Ledger(str(features)).scores().select(["key", "image_sha256", "clip_embedding"]).to_pylist()
    near = {row["image_sha256"]: row["clip_embedding"] for row in known}
    digests = [hashlib.sha256((pictures / "theirs" / f"{i:02d}.jpg").read_bytes()).hexdigest() for i in range(2)]
    listed = {
        "sha256": [digests[0], None],
        "emb": pa.array([None, near[digests[1]]], pa.list_(pa.float32())),
        "text": ["a", "b\x1b"],
    }
    pq.write_table(pa.table(listed), tmp_path / "list.parquet")
    words = ("data", "lookup", pictures / "theirs", "--in", tmp_path / "list.parquet", "--column", "embedding=emb")
    words = (*words, "--features", features, "--control", pictures / "others", "--out", tmp_path / "out" / "found.parquet")
    told = printed(*words)
    ways = {way["way"]: way for way in told["ways"]}
    assert (ways["sha256"]["found"], ways["sha256"]["rows"], told["clip"]) == (1, 1, "testbed")
    assert ways["embedding"]["looked_for"] == PER_SIDE
    # The last of the others is a twin of a work and no control.
    assert (told["controls"], told["controls_left_out"], told["not_looked_for"]["url"]) == (
        PER_SIDE - 1,
        1,
        {"not_in_lists": PER_SIDE},
    )
    matches = pq.read_table(tmp_path / "out" / "found.parquet").to_pylist()
    assert {("00.jpg", "sha256", 0), ("01.jpg", "embedding", 1)} <= {(m["source"], m["way"], m["row"]) for m in matches}
    assert "\x1b" not in run(*words)
    with pytest.raises(ConfigError, match="--column embedding: expected WHAT=NAME"):
        run(*words[:4], tmp_path / "list.parquet", "--column", "embedding")
    with pytest.raises(ConfigError, match="--column: names two columns for one thing"):
        run(*words[:4], tmp_path / "list.parquet", "--column", "url=a", "--column", "url=b")


def test_what_works_say_of_their_dates_is_listed_and_the_late_ones_written(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "works.csv").write_text("key,published,reserved\na\x1b,2020,yes\nb,2024-01,no\nc,,\n")
    said = {"source": "https://example.org/card", "retrieved": "2026-01-01"}
    (tmp_path / "c.yaml").write_text(json.dumps({"model": "m", "cut_off": {"value": "2023", **said}}))
    words = ("data", "claims", tmp_path / "works.csv", "--provider", tmp_path / "c.yaml")
    told = printed(*words, "--out", tmp_path / "claims.parquet", "--non-members", tmp_path / "late.parquet")
    assert told["sides"] == {"non_member": 1, "suspect": 1, "unclear": 1}
    assert [row["work"] for row in told["listed"]] == ["a\x1b", "b", "c"]
    assert pq.read_table(tmp_path / "late.parquet").column("key").to_pylist() == ["b"]
    shown = run(*words)
    assert "1 works first published after that are certain non-members" in shown
    assert "\x1b" not in shown
    assert f"The first 20 of {PER_SIDE} works" in run("data", "claims", pictures / "theirs")
    (tmp_path / "files.csv").write_text(
        f"file,caption,published\n{pictures}/theirs/00.jpg,a,2024-05\n{pictures}/theirs/01.jpg,b,then\n"
    )
    words = ("data", "claims", tmp_path / "files.csv", "--provider", tmp_path / "c.yaml", "--non-members", tmp_path / "late")
    shown = run(*words)
    assert f"Certain non-members: {tmp_path}/late/manifest.yaml" in shown
    assert "Images of certain non-members written: 1 of 1." in shown
    assert "01.jpg: published: no date that is understood: 'then'" in " ".join(shown.split())


def test_a_run_is_shown_evaluated_audited_and_its_losses_told(scanned: Path) -> None:
    folder = yaml.safe_load(scanned.read_text())["run"]
    assert printed("status", folder)["samples"] == 2 * PER_SIDE
    assert "finished, attempt 1" in run("status", folder)
    metrics = printed("evaluate", folder)
    assert metrics["signals"]["random"]["access"] == "control"
    assert (Path(folder) / "report" / "index.html").is_file()
    assert "Verdict:" in run("evaluate", folder)
    found = printed("audit", "--suspect", f"{folder}#members", "--control", f"{folder}#non_members")
    assert 0 <= found["test"]["p"] <= 1
    assert "No evidence" in run("audit", "--suspect", f"{folder}#members", "--control", f"{folder}#non_members")
    lost = printed("data", "attrition", yaml.safe_load(scanned.read_text())["manifest"], "--run", folder)
    assert [split["scored"] for split in lost["splits"]] == [PER_SIDE, PER_SIDE]


def test_a_grid_is_listed_and_a_machine_looked_at(scanned: Path) -> None:
    grid = run("sweep", scanned, "--over", "attacks.loss.draws=1,2", "--dry-run", "--run", scanned.parent / "sweep")
    assert "within each scan" in grid
    checks = {check["name"]: check["state"] for check in printed("doctor", "--job", scanned)}
    assert checks["manifest, model and attacks"] == "ok"


@pytest.mark.usefixtures("bare_loop")
def test_a_small_demo_scans_and_reports(scanned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The whole demo takes minutes; here its job is another one.
    monkeypatch.setattr(raymia.testbed, "DEMO_JOB", scanned)
    shown = run("demo", "--run", tmp_path / "demo")
    assert f"read {2 * PER_SIDE} = scored {2 * PER_SIDE}" in shown
    assert (tmp_path / "demo" / "report" / "index.html").is_file()


def test_the_demo_of_a_lora_holds_it_against_its_base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    jobs = []
    monkeypatch.setattr(sys.modules["raymia.cli.app"], "_scan_and_report", lambda job, report: jobs.append(job))
    run("demo", "--lora", "--run", tmp_path / "demo")
    (job,) = jobs
    plan = make_plan(job)
    assert (job.subject, job.reference, plan.expected) == ("testbed with testbed-lora", "base", 512)
    assert {"loss", "calibrated.loss"} <= set(plan.signal_names)


def test_what_a_file_is_is_said_by_its_header(tmp_path: Path) -> None:
    shown = printed("families", "--of", LORA)
    assert (shown["kind"], shown["of_text_encoders"], shown["refused"]) == ("LoRA", 0, [])
    assert "kind: LoRA" in run("families", "--of", LORA)
    names = {"input_blocks.0.0.weight": (4, 4, 3, 3), "middle_block.1.transformer_blocks.0.attn2.to_k.weight": (4, 768)}
    tensors = {f"model.diffusion_model.{name}": torch.zeros(shape) for name, shape in names.items()}
    save_file(tensors, tmp_path / "model.safetensors", {"modelspec.prediction_type": "epsilon"})
    told = printed("families", "--of", tmp_path / "model.safetensors")
    assert (told["kind"], told["prediction_type"]) == ("Stable Diffusion 1.x", "epsilon")
    assert told["lacks"] == ["vae", "text_encoder"]


def test_what_can_be_added_is_listed() -> None:
    assert {entry["family"] for entry in printed("families")} >= {"sdxl", "stable_diffusion"}
    assert "SDXL" in run("families")
    listed = {entry["service"]: entry for entry in printed("services")}
    assert set(listed) >= {"a1111", "bfl", "folder", "local", "openai", "stability"}
    assert listed["openai"]["attacks"] == listed["a1111"]["attacks"] == ["extraction", "generation", "pokemon", "rediffuse"]
    assert listed["bfl"]["attacks"] == listed["folder"]["attacks"] == ["extraction", "generation"]
    assert "image_to_image" in run("services")
    assert len(printed("attacks")) == run("attacks", "--json").count('"attack":')
    assert run("--version").startswith("raymia ")


def test_what_a_scan_asks_of_a_service_and_what_that_costs_is_said_beforehand() -> None:
    price = ("--set", "replica.price_per_image=0.04")
    said = " ".join(run("scan", "jobs/testbed_service.yaml", "--dry-run", *price).split())
    assert "Images asked of the service: 5 for each sample and 5 first questions; 5,125 in all." in said
    assert "Price of the images, by the job: 205.00 USD." in said
    told = printed("scan", "jobs/testbed_service.yaml", "--dry-run", *price)["service"]
    assert (told["images"], told["price"], told["currency"]) == (5125, pytest.approx(205.0), "USD")
    assert "set replica.price_per_image" in run("scan", "jobs/testbed_service.yaml", "--dry-run")
    plain = (
        "--set",
        "replica.extensions=none",
        "--set",
        "replica.url=https://example.org",
        "--set",
        "attacks={generation: {}}",
    )
    told = printed("scan", "jobs/testbed_service.yaml", "--dry-run", *plain, "--set", "replica.autoencoder=null")
    assert (told["together"]["queries"], told["together"]["forwards"], told["service"]["first_images"]) == (3, 0, 2)
    with pytest.raises(ConfigError, match=r"replica\.budget: 100\.00 USD, but the scan asks for 5,125 images"):
        run("scan", "jobs/testbed_service.yaml", "--dry-run", *price, "--set", "replica.budget=100")


def test_the_images_that_a_person_is_to_make_are_listed(tmp_path: Path) -> None:
    replica = {"service": "folder", "path": str(tmp_path / "made"), "resolution_px": 64}
    job = {"manifest": "testbed", "replica": replica, "clip": "testbed", "attacks": {"generation": {"images": 1}}}
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    assert "1,024 images, of which 0 are there" in " ".join(run("data", "prompts", tmp_path / "job.yaml").split())
    assert printed("data", "prompts", tmp_path / "job.yaml")["images"] == 1024


def test_the_testbed_is_made_anew_or_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "random weights" in run("testbed", "tiny", "--out", tmp_path / "tiny")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ConfigError, match="`apt-get` not found"):
        run("testbed", "build", "--out", tmp_path / "bed", "--cache", tmp_path / "cache")


def test_weights_of_lpips_are_made_from_a_package_of_the_index(tmp_path: Path) -> None:
    assert "lpips: {trunk:" in run("testbed", "lpips", "--out", tmp_path / "alexnet.safetensors")


@pytest.mark.usefixtures("local_ray")
def test_speed_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    unet = {"cross_attention_dim": 16, "attention_head_dim": 2, "block_out_channels": (32,) * 4, "norm_num_groups": 8}
    monkeypatch.setitem(shapes.SHAPES, "small", shapes.ModelShape({**unet, "layers_per_block": 1}, 16, 64, 1))
    vae = {**shapes.VAE_OPTIONS, "block_out_channels": (8,) * 4, "layers_per_block": 1, "norm_num_groups": 8}
    monkeypatch.setattr(shapes, "VAE_OPTIONS", vae)
    (model,) = printed("bench", "model", "--model", "small", "--device", "cpu", "--seconds", "0.1", "--batch", "2")
    assert model["forwards_s"] > 0
    (scorer,) = printed("bench", "scorer", "pia", "--model", "small", "--device", "cpu", "--seconds", "0.1", "--batch", "2")
    assert scorer["forwards"] == 4
    (pia,) = printed("bench", "attacks", "pia", "--samples", "10")
    assert (pia["attack"], pia["samples"]) == ("pia", 10)
    (pipeline,) = printed("bench", "pipeline", "--batch-seconds", "0.05", "--samples", "64")
    assert pipeline["scan_images_s"] > 0


def test_every_command_is_invoked_by_a_test() -> None:
    root = Path(__file__).parents[2]
    for command, file in ELSEWHERE.items():
        assert all(f'"{word}"' in (root / file).read_text() for word in command.split()), command
    assert set(every_command()) == INVOKED - {"--version"} | set(ELSEWHERE)
