"""Another package adds to raymia by its entry points alone: nothing of raymia is patched, named or changed for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from raymia.replica.families import LoadOptions
from raymia.replica.folder import PipelineFolder
from raymia.replica.schedule import named_levels
from raymia.run.ledger import Ledger
from raymia.trial.trial import Trial
from tests.conftest import good_members, image_bytes, tar_bytes

INSTALLED = str(Path(__file__).parent / "installed")
"""A folder as pip leaves it: a package, and what its installation says of it."""
COMMANDS = """
import json, sys
import ray
from typer.testing import CliRunner
from raymia.cli import app

ray.init("local", num_cpus=3, num_gpus=0, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
said = {}
for name, command in json.loads(sys.argv[1]).items():
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, (command, done.output, done.exception)
    said[name] = done.stdout
print(json.dumps(said))
"""
SIDE = 32
BETAS = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
Said = dict[str, str]


def save_pixel_pipeline(folder: Path) -> None:
    """A pipeline of random weights, which diffusers writes; the family of the other package takes it for its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=SIDE,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=4,
        )
    DDPMPipeline(unet, DDPMScheduler(**BETAS)).save_pretrained(folder)
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": "OutsidePixelPipeline"}))


def wider(count: int, start: int) -> list[tuple[str, bytes]]:
    small = good_members(count, start)
    return [(name, content if name.endswith(".txt") else image_bytes(int(name[:4]), size=(96, 64))) for name, content in small]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outside")
    save_pixel_pipeline(folder / "model")
    (folder / "m.tar").write_bytes(tar_bytes(good_members(12)))
    (folder / "n.tar").write_bytes(tar_bytes([*good_members(3, start=100), *wider(9, start=103)]))
    splits = [
        {"name": "members", "member": True, "shards": ["m.tar"]},
        {"name": "non_members", "member": False, "shards": ["n.tar"]},
    ]
    (folder / "manifest.yaml").write_text(yaml.safe_dump({"name": "set", "splits": splits}))
    job = {"manifest": str(folder / "manifest.yaml"), "pool": {"replicas": 1, "batch_size": 8}, "unit_size": 8}
    of_model = {
        "replica": {"model": str(folder / "model"), "dtype": "float32", "resolution_px": SIDE},
        "attacks": {"outside_restraint": {}, "loss": {"timesteps": [100, 300], "draws": 1}, "sima": {}},
    }
    of_service = {
        "replica": {"service": "outside_blur", "resolution_px": 64, "sigma_px": 3.0},
        "attacks": {"rediffuse": {"variations": 2}, "rediffuse:strong": {"timestep": 500, "timesteps": [500]}, "random": {}},
    }
    for name, content in {"model": of_model, "service": of_service}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**job, **content, "run": str(folder / "runs" / name)}))
    return folder


@pytest.fixture(scope="module")
def said(folder: Path) -> Said:
    """What the commands print in one process that finds the other package where installed packages are."""
    commands = {
        "attacks": ["attacks", "--json"],
        "cost": ["scan", str(folder / "model.yaml"), "--dry-run", "--json"],
        "model": ["scan", str(folder / "model.yaml")],
        "service cost": ["scan", str(folder / "service.yaml"), "--dry-run", "--json"],
        "service": ["scan", str(folder / "service.yaml")],
        "evaluate": ["evaluate", str(folder / "runs" / "service"), "--json"],
    }
    surroundings = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([INSTALLED, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]),
    }
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        env={**surroundings, "RAY_AUTH_MODE": "disabled"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: Said = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(INSTALLED)


def test_the_attack_is_listed_and_counted_as_those_that_ship(said: Said) -> None:
    listed = {entry["attack"]: entry for entry in json.loads(said["attacks"])}
    assert listed["outside_restraint"]["cost"]["forwards"] == 1
    assert "loss" in listed
    cost = json.loads(said["cost"])
    assert set(cost["per_image"]) == {"outside_restraint", "loss", "sima"}
    assert cost["apart"]["forwards"] == 1 + 2 + 4
    assert cost["together"]["forwards"] == 1 + 2 + 4 - 1, "the attack's evaluation is one of the loss's"


def test_a_scan_of_the_family_scores_every_sample_with_its_attack_and_with_shipped_ones(folder: Path, said: Said) -> None:
    ledger = Ledger(str(folder / "runs" / "model"))
    record, table = ledger.require_scan(), ledger.scores().to_pandas()
    assert (record.counts.read, record.counts.scored, len(table)) == (24, 24, 24)
    assert record.evaluations.forwards == 24 * 6
    by_name = {signal.name: signal for signal in record.signals}
    assert by_name["outside_restraint"].cost.forwards == 1
    for name in ("outside_restraint", "loss", "loss.t=300", "sima"):
        assert table[name].notna().all()
        assert table[name].std() > 0, name


def test_black_box_attacks_score_and_evaluate_what_the_service_makes(folder: Path, said: Said) -> None:
    assert json.loads(said["service cost"])["together"]["queries"] == 2 * 2 + 4 + 1
    ledger = Ledger(str(folder / "runs" / "service"))
    record, table = ledger.require_scan(), ledger.scores().to_pandas()
    assert record.job.subject == "service outside_blur"
    assert (record.counts.scored, record.evaluations.queries, record.evaluations.forwards) == (24, 24 * 9, 0)
    assert (table["rediffuse"] > table["rediffuse:strong"]).all(), "more noise, more blur"
    signals = json.loads(said["evaluate"])["signals"]
    assert {"rediffuse", "rediffuse:strong", "blind.statistics"} <= set(signals)
    assert 0 <= signals["rediffuse"]["auc"]["value"] <= 1


def test_its_blind_baseline_and_its_measure_stand_beside_those_that_ship(folder: Path, said: Said) -> None:
    metrics = json.loads(said["evaluate"])
    blind = metrics["signals"]["blind.outside_width"]
    assert blind["auc"]["value"] > 0.75
    accuracy = blind["measures"]["outside_accuracy"]
    assert 0.75 < accuracy["value"] < 1, "9 of 12 non-members are wider"
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert all("outside_accuracy" in signal["measures"] for signal in metrics["signals"].values())
    report = folder / "runs" / "service" / "report"
    table = pd.read_csv(report / "tables" / "signals.csv", index_col="signal")
    assert table.loc["blind.outside_width", "outside_accuracy"] == pytest.approx(accuracy["value"])
    assert "Best accuracy" in (report / "index.html").read_text()


@pytest.mark.usefixtures("outside")
def test_the_loss_of_the_family_is_the_plain_formula_at_its_own_step_nearest_to_the_level(folder: Path) -> None:
    from raymia_outside.pixels import Pixels

    found = PipelineFolder(folder / "model", Pixels())
    found.check()
    replica = found.load(LoadOptions(device="cpu", resolution_px=SIDE))
    images = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    trial = Trial(replica, images, ["", "", ""], ["a", "b", "c"], 0)
    scheduler = DDPMScheduler.from_pretrained(folder / "model" / "scheduler")
    unet = UNet2DModel.from_pretrained(folder / "model" / "unet").eval()
    shares = scheduler.alphas_cumprod.double()
    levels = (1 - shares).sqrt() / (shares.sqrt() + (1 - shares).sqrt())
    for t in (300, 500):
        step = int((levels - named_levels()[t]).abs().argmin())
        assert step == replica.schedule.step_of(float(named_levels()[t])) != t
        noise = trial.noise(0)
        with torch.no_grad():
            predicted = unet(scheduler.add_noise(images, noise, torch.tensor([step] * 3)), step).sample
        assert torch.allclose(trial.loss(t, 0), (noise - predicted).square().flatten(1).mean(1), rtol=1e-5)


@pytest.mark.usefixtures("outside")
def test_gradients_of_the_family_are_those_of_its_loss(folder: Path) -> None:
    from raymia_outside.pixels import Pixels

    from raymia.attacks.gradient import Gradient

    replica = PipelineFolder(folder / "model", Pixels()).load(LoadOptions(device="cpu", resolution_px=SIDE))
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    trial = Trial(replica, images, ["", ""], ["a", "b"], 0)
    scores = Gradient(timesteps=(100,), direction_draws=2).score(trial)
    one = trial.noisy(100, 0)[:1].clone().requires_grad_(True)
    loss = (trial.noise(0)[:1] - replica.predicted_noise(one, 100, trial.text()[:1])).square().mean()
    (by_input,) = torch.autograd.grad(loss, one)
    expected = -(trial.schedule.alpha(100) * by_input).flatten().norm()
    assert torch.allclose(scores["gradient.input"][0], expected, rtol=1e-4)
