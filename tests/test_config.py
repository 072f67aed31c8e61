"""Bad configuration stops before Ray starts, in one line that says what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from raymia.config import as_it_was_meant, load_job, parse_job
from raymia.errors import ConfigError
from raymia.run.ledger import Ledger
from raymia.scan.plan import make_plan
from raymia.scan.sweep import load_sweep, parse_factor

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
        ({"attacks": {"secmi": {"timestep": 105, "timesteps": [105]}}}, "not a positive multiple of step 10"),
        ({"pool": {"replicas": 2, "min_replicas": 1}}, "either replicas, or min_replicas"),
        ({"replica": {}}, "`replica.model` is missing"),
        ({"attacks": {"loss:../../up": {}}}, "expected a name behind the colon"),
        ({"seed": 2**63}, "`seed`: Input should be less than"),
        ({"seed": True}, "seed: expected no true"),
        ({"pool": {"batch_size": True}}, "batch_size: expected no true"),
        ({"pool": {"gpus_per_replica": 1.5}}, "gpus_per_replica: expected a whole number above 1"),
        ({"attacks": {"loss": {"draws": True}}}, "attacks.loss: draws: expected no true"),
        ({"run": ""}, "`run`: expected a name"),
        ({"manifest": "a\0b"}, "`manifest`: expected a name without control characters"),
        ({"replica": {"model": "a\x1b[31mb"}}, "`replica.model`: expected a name without control characters"),
        ({"limits": {"max_shard_byte": 1}}, "unknown key `limits.max_shard_byte`; did you mean `max_shard_bytes`"),
        ({"limits": {"attempts": 0}}, "`limits.attempts`"),
    ],
)
def test_a_bad_job_file_is_refused_with_the_field(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_job(write(tmp_path, **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("attacks: {pia: {}}", "line 4, column 1: the key `attacks` stands in line 3 already"),
        ("pool: {replicas: 1, replicas: 2}", "the key `replicas` stands in line 4 already"),
        ("seed: 010", "line 4, column 7: `010` is read in two ways; write 10 for the number"),
        ("max_quarantined_fraction: 1e-3", "write 0.001 for the number"),
        ("labels_do_not_hold: yes", "write true"),
        ("run: 2024-01-01", '"2024-01-01" in quotes for text'),
        ("max_quarantined_fraction: .nan", "no number to reckon with"),
        ("pool: !!python/object/apply:os.system [ls]", "reads no tags"),
        ("clip: \x1b[31m", "line 4, column 7: the control character"),
    ],
)
@pytest.mark.parametrize("command", [load_job, load_sweep])
def test_a_surprise_in_a_job_file_is_refused_with_file_line_and_what_to_write(
    tmp_path: Path, text: str, message: str, command: Any
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"manifest: testbed\nreplica: {{model: testbed}}\nattacks: {{loss: {{}}}}\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        command(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value", ["010", "1_000", "yes", "1e3", "{a: 1, a: 2}", "2001-01-01", ".inf", "[" * 3000, "a: b: c", "\0"]
)
def test_a_surprise_on_the_command_line_is_refused_alike(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"--set seed=.*(line 1, column|not YAML)"):
        load_job(write(tmp_path), [f"seed={value}"])
    with pytest.raises(ConfigError, match=r"--over seed=.*(line 1, column|not YAML)"):
        parse_factor(f"seed=0,{value}")


@pytest.mark.parametrize("content", [b"manifest: testbed\nrun: \xff", b"", b"- 1", b"5", b"[" * 3000, b"\0" * 100])
def test_a_file_that_is_no_job_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "job.yaml").write_bytes(content)
    for path in (tmp_path / "job.yaml", tmp_path, tmp_path / "gone.yaml"):
        with pytest.raises(ConfigError) as caught:
            load_job(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_grid_that_would_fill_the_memory_is_refused_at_once(tmp_path: Path) -> None:
    numbers = ",".join(map(str, range(64, 1064)))
    within = [f"attacks.loss.{field}={numbers}" for field in ("draws", "timesteps", "noise")]
    for over in ([f"{field}={numbers}" for field in ("seed", "unit_size", "replica.resolution_px", "max_pixels")], within):
        with pytest.raises(ConfigError, match=r"[Vv]ary fewer values"):
            load_sweep(write(tmp_path), over)


@pytest.mark.parametrize("field", ["limits.attempts", "limits.read_timeout_s", "pool.batch_size", "run", "manifest"])
def test_a_field_that_changes_no_score_cannot_be_varied(tmp_path: Path, field: str) -> None:
    with pytest.raises(ConfigError, match="changes no score"):
        load_sweep(write(tmp_path), [f"{field}=2,3"])


def test_what_decides_the_fate_of_a_sample_identifies_a_run_and_patience_does_not(tmp_path: Path) -> None:
    path, same = write(tmp_path), load_job(write(tmp_path)).identity()
    for free in ("limits.attempts=2", "limits.read_timeout_s=5", "limits.max_shards=7", "pool.batch_size=4", "run=elsewhere"):
        assert load_job(path, [free]).identity() == same
    for decisive in ("limits.max_image_bytes=5", "limits.max_members=5", "max_pixels=9", "seed=1", "replica.revision=x"):
        assert load_job(path, [decisive]).identity() != same


def test_a_field_that_did_not_exist_when_a_run_was_made_counts_as_its_default() -> None:
    now = parse_job({**GOOD, "run": "r"}, "job").model_dump(mode="json")
    then = {name: value for name, value in now.items() if name not in ("limits", "access", "lpips")}
    then["replica"] = {"model": "testbed", "resolution_px": 64}
    assert as_it_was_meant(then) == now


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
    with pytest.raises(ConfigError, match="matches no file"):
        make_plan(load_job(write(tmp_path, manifest=str(tmp_path / "m.yaml"))))


def test_weights_that_are_pickled_are_refused(tmp_path: Path, tiny: Path) -> None:
    for path in tiny.rglob("*"):
        target = tmp_path / "testbed-pickled" / path.relative_to(tiny)
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    weights = tmp_path / "testbed-pickled" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ConfigError, match="unet: no safetensors weights, only diffusion_pytorch_model"):
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
