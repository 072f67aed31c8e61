"""Settings chosen on one model and reported on others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from raymia.bench import leaderboard
from raymia.bench.leaderboard import SETTINGS, choose, figures_of, make_leaderboard, settings_of, subject
from raymia.cli import app
from raymia.errors import ConfigError
from raymia.evaluation.bootstrap import bootstrap
from raymia.evaluation.measures.auc import Auc
from raymia.evaluation.roc import exact_roc
from raymia.scan.leaderboard import Leaderboard

FEW: dict[str, Any] = {"sima": ({"timesteps": [50], "timestep": 50}, {"timesteps": [300], "timestep": 300})}


def test_every_setting_is_one_that_its_attack_takes_and_no_two_are_the_same() -> None:
    settings = settings_of()
    job = subject("testbed", settings)
    assert set(job.attacks) == set(settings)
    made = [(attack.name, attack.model_dump_json()) for attack in job.attacks.values()]
    assert len(set(made)) == len(made)
    assert {name for name, _ in settings.values()} >= set(SETTINGS)
    assert "pokemon" not in settings, "its defaults take weights of the network"


def test_dearer_settings_are_listed_where_they_find_more_and_defaults_always() -> None:
    settings = {"sima": ("sima", {}), "sima:0": ("sima", FEW["sima"][0]), "sima:1": ("sima", FEW["sima"][1])}
    member = np.repeat([True, False], 50)
    random = np.random.default_rng(0)

    def told(shift: float) -> np.ndarray:
        return random.permutation(50).repeat(2).astype(float) * 0 + random.standard_normal(100) + shift * member

    columns = {"sima:0": told(0.1), "sima:0.t=50": told(0.2), "sima:0.lowpass": told(1.5)}
    columns |= {"sima:1": told(0.0), "sima:1.t=300": told(0.0), "sima:1.lowpass": told(0.5)}
    columns |= {name: told(0.3) for name in ("sima", *(f"sima.t={t}" for t in (10, 50, 100, 300)), "sima.lowpass")}
    assert choose(settings, columns, member) == [("sima:0.lowpass", "sima:0"), ("sima", "sima")]
    columns["sima.t=300"] = told(9.0)
    assert choose(settings, columns, member)[1:] == [("sima.t=300", "sima"), ("sima", "sima")]


def test_figures_are_those_of_the_evaluation() -> None:
    random = np.random.default_rng(1)
    member = np.arange(80) % 2 == 0
    column = random.standard_normal(80) + member
    figures = figures_of({"one": column}, member)["one"]
    draws = bootstrap({"one": column}, member, {"auc": Auc().draws})["one"]["auc"]
    assert figures.auc.value == Auc().value(exact_roc(column, member))
    assert (figures.auc.low, figures.auc.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]))


def test_two_models_are_scored_and_one_is_reported_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(leaderboard, "SETTINGS", FEW)
    job = tmp_path / "job.yaml"
    replica = {"model": "testbed", "resolution_px": 64, "adapters": [{"path": "testbed-lora"}]}
    job.write_text(yaml.safe_dump({"manifest": "testbed-lora", "replica": replica, "attacks": {"random": {}}}))
    out = tmp_path / "table.json"
    command = ["bench", "attacks", "sima", "--models", f"testbed,{job}", "--samples", "64", "--out", str(out), "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    table = Leaderboard.model_validate_json(out.read_text())
    assert json.loads(done.stdout[done.stdout.index("[") :])[0] == table.model_dump(mode="json")
    assert (table.chosen_on, table.reported_on, table.samples) == ("testbed", [str(job)], {"testbed": 64, str(job): 64})
    assert table.entries[-1].signal.startswith("sima")
    assert {one.passes for one in table.entries} <= {1, 4}
    assert table.entries[0].figures["testbed"].auc.value > 0.8
    shown = CliRunner().invoke(app, ["bench", "attacks", "sima", "--models", "testbed,testbed", "--samples", "64"])
    assert "expected models other than that of --choose-on" in str(shown.exception)


@pytest.mark.parametrize(
    ("models", "choose_on", "report_on", "message"),
    [
        (["testbed"], "testbed", [], "expected models other than"),
        (["testbed", "testbed-flow"], "testbed", ["testbed"], "expected models other than"),
        (["testbed", "testbed-flow"], "testbed", ["testbed-lora"], "testbed-lora is not among --models"),
        (["testbed", "nowhere.yaml"], "testbed", ["nowhere.yaml"], "nowhere.yaml: cannot be read"),
    ],
)
def test_models_that_cannot_be_held_against_each_other_are_refused(
    models: list[str], choose_on: str, report_on: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_leaderboard(models, choose_on, report_on, ["random"])
    with pytest.raises(ConfigError, match="--choose-on, --report-on and --out go with --models"):
        CliRunner().invoke(app, ["bench", "attacks", "--choose-on", "testbed"], catch_exceptions=False)
