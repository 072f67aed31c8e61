"""Bad configuration stops before Ray starts, in one line that says what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from raymia.config import load_job
from raymia.errors import ConfigError
from raymia.run.ledger import Ledger
from raymia.scan.plan import make_plan

GOOD: dict[str, Any] = {"manifest": "testbed", "replica": {"model": "testbed", "resolution_px": 64}, "attacks": {"loss": {}}}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    return path


def test_a_good_job_has_its_defaults_and_overrides(tmp_path: Path) -> None:
    job = load_job(write(tmp_path), ["pool.batch_size=4", "attacks.secmi.timestep=50"])
    assert job.unit_size == 256
    assert job.run == "runs/job"
    assert job.pool.batch_size == 4
    assert list(job.attacks) == ["loss", "secmi"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sed": 1}, "unknown key `sed`; did you mean `seed`"),
        ({"replica": {"model": "testbed", "dtyp": "float32"}}, "unknown key `replica.dtyp`; did you mean `dtype`"),
        ({"attacks": {"los": {}}}, "no such attack; did you mean `loss`"),
        ({"attacks": {"loss": {"drows": 2}}}, "unknown key `drows`; did you mean `draws`"),
        ({"attacks": {"loss": {"timesteps": []}}}, "attacks.loss: `timesteps`"),
        ({"attacks": {"secmi": {"timestep": 105}}}, "not a positive multiple of step 10"),
        ({"pool": {"replicas": 2, "min_replicas": 1}}, "either replicas, or min_replicas"),
        ({"replica": {}}, "`replica.model` is missing"),
    ],
)
def test_a_bad_job_file_is_refused_with_the_field(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_job(write(tmp_path, **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"manifest": "gone.yaml"}, "no such file"),
        ({"replica": {"model": "./gone"}}, "no such folder"),
        ({"attacks": {"loss": {"timesteps": [1000]}}}, "expected 0 to 999"),
        ({"attacks": {"pokemon": {}}}, "no `clip`; set one"),
        ({"attacks": {"rediffuse": {"metric": "lpips"}}, "lpips": {"trunk": "gone.safetensors"}}, "no such file"),
        ({"attacks": {"denoising": {"presets": {"short_300": {"timesteps": []}}}}}, "at least 1 item"),
        ({"attacks": {"denoising": {"presets": ["parcial"]}}}, "did you mean .partial"),
        (
            {"attacks": {"denoising": {"presets": {"reversed_noising": {"guidance": 7.5}}, "errors": ["model"]}}},
            "plain loss; leave guidance out",
        ),
        ({"attacks": {"denoising": {"presets": {"short_300": {"start": 1000}}}}}, "expected 0 to 999"),
        ({"attacks": {"loss": {"guidance": 7.5}}}, "attacks.loss: .*guidance"),
        ({"attacks": {"gradient": {"direction_timestep": 1000}}}, "expected 0 to 999"),
        ({"attacks": {"generation": {"steps": 1000}}, "clip": "testbed"}, "expected fewer than"),
        ({"attacks": {"sima": {"timestep": 20}}}, "not among timesteps"),
        ({"attacks": {"pia": {}}, "access": "black"}, "needs grey access, but .access. is black"),
        ({"attacks": {"gradient": {}}, "access": "grey"}, "needs white access, but .access. is grey"),
        ({"clip": "./gone"}, "not a folder"),
    ],
)
def test_a_job_that_does_not_fit_together_is_refused_before_a_model_is_loaded(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message.replace("`", ".")):
        make_plan(load_job(write(tmp_path, **changes)))


def test_a_model_that_the_labels_were_not_made_for_is_refused_unless_that_is_acknowledged(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(ConfigError, match=r"hold for testbed, testbed-\*, not for replica.model .*--labels-do-not-hold"):
        make_plan(load_job(write(tmp_path, replica={"model": str(tiny)})))
    make_plan(load_job(write(tmp_path, replica={"model": str(tiny)}, labels_do_not_hold=True)))


def test_a_split_without_shards_is_refused(tmp_path: Path) -> None:
    manifest = {"name": "x", "splits": [{"name": "members", "member": True, "shards": ["none-*.tar"]}]}
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(manifest))
    with pytest.raises(ConfigError, match="no shard matches"):
        make_plan(load_job(write(tmp_path, manifest=str(tmp_path / "m.yaml"))))


def test_weights_that_are_pickled_are_refused(tmp_path: Path, tiny: Path) -> None:
    for path in tiny.rglob("*"):
        target = tmp_path / "testbed-pickled" / path.relative_to(tiny)
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    weights = tmp_path / "testbed-pickled" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ConfigError, match="no safetensors weights in unet"):
        make_plan(load_job(write(tmp_path, replica={"model": str(tmp_path / "testbed-pickled")})))


def test_an_unwritable_run_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="choose another run directory"):
        Ledger(str(tmp_path / "file" / "run")).require_writable()


def test_the_command_ends_with_code_2_and_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "raymia", "scan", str(write(tmp_path, attacks={"lossy": {}}))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "did you mean `loss`" in done.stderr
