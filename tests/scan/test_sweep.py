"""Grids over fields of a job: as few scans as can be, and one analysis of them all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rich.console import Console

import raymia
from raymia.config import load_job
from raymia.errors import ConfigError
from raymia.evaluation.factors import TIMESTEP, along, analyse, budgets
from raymia.run.ledger import Ledger
from raymia.scan.sweep import load_sweep, run_sweep
from tests.conftest import good_members, image_bytes
from tests.scan.test_pipeline import make_job

JOBS = Path(__file__).parents[2] / "jobs"


def write_job(folder: Path, **changes: object) -> Path:
    content = {
        "manifest": "testbed",
        "replica": {"model": "testbed-tiny", "resolution_px": 64},
        "attacks": {"loss": {"draws": 1}, "pia": {}},
        "run": str(folder / "run"),
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}))
    return path


def test_parameters_of_attacks_vary_within_a_scan_and_other_fields_between_scans(tmp_path: Path) -> None:
    over = ["replica.resolution_px=32,64", "attacks.loss.timesteps=[100],[100,200]", "attacks.loss.draws=1,2"]
    factors, cells, folder = load_sweep(write_job(tmp_path), over)
    assert folder == str(tmp_path / "run-sweep")
    assert [factor.attack for factor in factors] == [None, "loss", "loss"]
    assert [cell.point for cell in cells] == [{"replica.resolution_px": 32}, {"replica.resolution_px": 64}]
    assert list(cells[0].job.attacks) == [
        "loss:timesteps=100+draws=1",
        "loss:timesteps=100+draws=2",
        "loss:timesteps=100-200+draws=1",
        "loss:timesteps=100-200+draws=2",
        "pia",
    ]
    variant = cells[0].variants["loss:timesteps=100-200+draws=2"]
    assert variant.attack == "loss"
    assert variant.point == {"attacks.loss.timesteps": [100, 200], "attacks.loss.draws": 2}
    assert cells[0].job.run != cells[1].job.run


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ("replica.resolution=32", "unknown key `replica.resolution`; did you mean `resolution_px`"),
        ("attacks.loss.draw=1,2", "unknown key `draw`; did you mean `draws`"),
        ("attacks.secmi.step=10,20", "the job has no such attack; it has loss, pia"),
        ("pool.batch_size=1,2", "it changes no score"),
        ("seed", "expected FIELD=VALUE,VALUE"),
        ("seed=1,1", "has a value twice"),
        ("seed=[1", "not YAML"),
    ],
)
def test_grids_that_cannot_be_run_are_refused_before_anything_starts(tmp_path: Path, over: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        load_sweep(write_job(tmp_path), [over])


def test_a_job_with_a_grid_is_a_sweep_and_no_scan(tmp_path: Path) -> None:
    path = write_job(tmp_path, sweep={"seed": [0, 1]})
    assert [cell.job.seed for cell in load_sweep(path)[1]] == [0, 1]
    with pytest.raises(ConfigError, match="run it with `raymia sweep"):
        load_job(path)
    with pytest.raises(ConfigError, match="nothing to vary"):
        load_sweep(write_job(tmp_path))
    with pytest.raises(ConfigError, match="expected a map from field to a list"):
        load_sweep(write_job(tmp_path, sweep={"seed": 1}))


def test_the_ready_sweep_has_the_factors_of_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(JOBS.parent)
    factors, cells, _ = load_sweep(JOBS / "factors.yaml")
    assert {"replica.resolution_px", "attacks.pokemon.metrics"} <= {factor.field for factor in factors}
    assert len(cells[0].job.attacks["loss:draws=3"].signals()) > 5


@pytest.mark.usefixtures("bare_loop")
def test_a_sweep_is_run_resumed_and_analysed(
    tmp_path: Path, tiny: Path, write_tar: Callable[[str, list[tuple[str, bytes]]], Path]
) -> None:
    write_tar("m0.tar", good_members(30))
    write_tar("n0.tar", good_members(30, start=100))
    job = make_job(tmp_path, tiny, "run", attacks={"loss": {"timesteps": [100, 300], "draws": 1}, "random": {}})
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job.model_dump(mode="json")))
    factors, cells, folder = load_sweep(path, ["caption_source=own,empty,shuffled", "attacks.loss.draws=1,2"])
    run_sweep(factors, cells, folder, Console(quiet=True))
    written = {p: p.stat().st_mtime_ns for p in Path(folder).rglob("scores/**/*.parquet")}
    run_sweep(factors, cells, folder, Console(quiet=True))
    assert {p: p.stat().st_mtime_ns for p in Path(folder).rglob("scores/**/*.parquet")} == written
    analysis, evaluations = analyse(folder)
    assert len(evaluations) == 3
    by_captions = along(analysis, "caption_source")
    assert [value for value, _ in by_captions["loss"]] == ["own", "empty", "shuffled"]
    assert "random" not in by_captions
    assert [value for value, _ in along(analysis, TIMESTEP)["loss"]] == [100, 300]
    assert [forwards for forwards, _ in budgets(analysis)["loss"]] == [2, 4]
    own, empty, shuffled = (Ledger(cell.job.run).scores().to_pandas() for cell in cells)
    assert (own["loss:draws=1"] != empty["loss:draws=1"]).all()
    assert empty["prompt"].eq("").all()
    assert own["prompt"].isna().all()
    assert (shuffled["prompt"] != shuffled["caption"]).all()
    assert own["caption"].equals(shuffled["caption"])
    with pytest.raises(ConfigError, match=r"no sweep\.json"):
        analyse(str(tmp_path))


def test_variants_of_an_attack_score_as_they_would_alone(tmp_path: Path, tiny: Path) -> None:
    paths = [tmp_path / f"{seed}.jpg" for seed in range(16)]
    for seed, path in enumerate(paths):
        path.write_bytes(image_bytes(seed))
    two = {"loss": {"timesteps": [100], "draws": 1}, "loss:more": {"timesteps": [100, 200], "draws": 2}}
    together, alone = (
        raymia.score(paths, model=str(tiny), attacks=attacks, resolution_px=64, dtype="float32", progress=False)
        for attacks in (two, {"loss": two["loss:more"]})
    )
    assert together["loss:more.t=200"].equals(alone["loss.t=200"])
    assert together["loss:more"].equals(alone["loss"])


@pytest.mark.usefixtures("bare_loop")
def test_a_control_model_is_scanned_into_the_run_and_held_against_it(
    tmp_path: Path, tiny: Path, write_tar: Callable[[str, list[tuple[str, bytes]]], Path]
) -> None:
    from raymia.evaluation.metrics import evaluate_run
    from tests.scan.test_pipeline import scan

    write_tar("m0.tar", good_members(12))
    write_tar("n0.tar", good_members(12, start=100))
    attacks = {"loss": {"timesteps": [100], "draws": 1}}
    job = make_job(tmp_path, tiny, "run", attacks=attacks, control_model=str(tiny))
    scan(job)
    metrics = evaluate_run(Ledger(job.run)).metrics
    assert metrics.control_model == str(tiny)
    assert metrics.signals["loss"].excess_over_control is not None
    assert metrics.signals["loss"].excess_over_control.value == 0.0
    assert metrics.verdict.verdict != "evidence"
