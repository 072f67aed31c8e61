"""Attacks that a number of forwards buys, from a table of what they reached."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from raymia.attacks.base import ATTACKS
from raymia.cli import app
from raymia.config import parse_job
from raymia.errors import ConfigError
from raymia.scan.budget import CONTROLS, best, evidence, propose
from raymia.scan.leaderboard import Entry, Figure, Figures, Leaderboard, shipped_leaderboard

CONTENT: dict[str, Any] = {
    "manifest": "testbed",
    "replica": {"model": "testbed", "resolution_px": 64},
    "attacks": {"random": {}},
    "run": "runs/never",
}


def entry(attack: str, auc: float, parameters: dict[str, Any] | None = None, elsewhere: float | None = None) -> Entry:
    made = ATTACKS.get(attack).model_validate(parameters or {})

    def reached(value: float) -> Figures:
        figure = Figure(value=value, low=value, high=value)
        return Figures(auc=figure, tpr=figure)

    figures = {"one": reached(0.99), "two": reached(auc), "three": reached(auc if elsewhere is None else elsewhere)}
    cost = made.cost()
    return Entry(attack=attack, parameters=parameters or {}, signal=attack, access=str(made.access), cost=cost, figures=figures)


def table(*entries: Entry) -> Leaderboard:
    samples = {"one": 512, "two": 512, "three": 512}
    return Leaderboard(version="0", chosen_on="one", reported_on=["two", "three"], samples=samples, entries=list(entries))


def test_independent_normal_scores_are_together_as_good_as_the_sum_of_their_evidence_says() -> None:
    random = np.random.default_rng(0)
    member = np.repeat([True, False], 200_000)
    shifts = (0.8, 1.1, 1.5)
    scores = [random.standard_normal(400_000) + shift * member for shift in shifts]
    together = sum(shift * score for shift, score in zip(shifts, scores, strict=True))
    apart = sum(evidence(float(roc_auc_score(member, score))) for score in scores)
    assert evidence(float(roc_auc_score(member, together))) == pytest.approx(apart, rel=0.02)
    assert evidence(0.5) == evidence(0.3) == 0.0
    assert math.isfinite(evidence(1.0))


@pytest.mark.parametrize("budget", [1, 3, 6, 11, 20, 40])
def test_no_other_choice_within_the_budget_holds_more_evidence(budget: int) -> None:
    random = np.random.default_rng(budget)
    settings = {
        "sima": [{"timesteps": [t], "timestep": t} for t in (10, 50)],
        "pia": [{}, {"timesteps": [200], "timestep": 200}],
        "loss": [{}, {"draws": 1}, {"timesteps": [300], "draws": 1}],
        "secmi": [{}, {"timesteps": [50], "timestep": 50}],
    }
    entries = [
        entry(attack, float(random.uniform(0.55, 0.95)), one, float(random.uniform(0.55, 0.95)))
        for attack, several in settings.items()
        for one in several
    ]
    models = ["two", "three"]
    choices = itertools.product(*[[None, *(one for one in entries if one.attack == attack)] for attack in settings])
    held = max(
        sum(evidence(one.lowest_auc(models)) for one in choice if one)
        for choice in choices
        if sum(one.passes for one in choice if one) <= budget
    )
    chosen = best(entries, budget, models)
    assert sum(one.passes for one in chosen) <= budget
    assert len({one.attack for one in chosen}) == len(chosen)
    assert sum(evidence(one.lowest_auc(models)) for one in chosen) == pytest.approx(held)


def test_what_is_left_out_is_named_with_its_reason() -> None:
    entries = table(
        entry("sima", 0.9, {"timesteps": [100]}),
        entry("pia", 0.5),
        entry("loss", 0.8),
        entry("clid", 0.9),
        entry("gradient", 0.9),
        entry("generation", 0.9, {"images": 1, "steps": 1}),
    )
    job, proposal = propose(parse_job({**CONTENT, "access": "grey"}, "job"), 30, entries)
    assert set(job.attacks) == {"sima", "loss", *CONTROLS}
    assert proposal.passes == 26
    left = proposal.left_out
    assert left["clid"] == "takes 36 forwards at least"
    assert left["pia"] == "adds less than what was chosen"
    assert left["gradient"] == "takes 39 forwards at least"
    assert "clip" in left["generation"]
    assert left["secmi"] == "stands in no leaderboard"
    assert not set(left) & (set(job.attacks) | {"autoencoder", "random"})
    white = entry("gradient", 0.9, {"timesteps": [300], "direction_timestep": 300, "direction_draws": 2})
    _, proposal = propose(parse_job({**CONTENT, "access": "grey"}, "job"), 30, table(entry("loss", 0.8), white))
    assert "needs white access" in proposal.left_out["gradient"]


def test_a_backward_counts_for_two_and_what_attacks_share_is_counted_once() -> None:
    masking = entry("gradient_masking", 0.9, {"timesteps": [250]})
    assert masking.passes == 3 + 2
    job, proposal = propose(parse_job(CONTENT, "job"), 41, table(entry("loss", 0.8), entry("pia", 0.8), entry("secmi", 0.8)))
    assert proposal.passes == 25 + 4 + 12 - 1
    assert job.attacks["secmi"] == ATTACKS.get("secmi")()


@pytest.mark.parametrize(
    ("replica", "message"), [({"service": "local"}, "images alone"), ({}, "loss: takes 25 forwards at least")]
)
def test_a_budget_that_buys_nothing_is_refused(replica: dict[str, Any], message: str) -> None:
    job = parse_job({**CONTENT, "replica": replica or CONTENT["replica"]}, "job")
    with pytest.raises(ConfigError, match=message):
        propose(job, 3, table(entry("loss", 0.8)))


def test_the_shipped_table_is_of_attacks_as_they_are() -> None:
    shipped = shipped_leaderboard()
    assert shipped.chosen_on not in shipped.reported_on
    for one in shipped.entries:
        made = ATTACKS.get(one.attack).model_validate(one.parameters)
        assert made.cost() == one.cost, one
        assert one.signal in {signal.name for signal in made.signals()}, one
        assert str(made.access) == one.access
        assert set(one.figures) == {shipped.chosen_on, *shipped.reported_on}


def test_the_command_proposes_attacks_for_a_job_without_any_and_says_what_it_left_out(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump({name: value for name, value in CONTENT.items() if name != "attacks"}))
    shown = CliRunner().invoke(app, ["scan", str(job), "--budget", "12", "--dry-run"])
    assert shown.exit_code == 0, shown.output
    assert "Attacks for 12 forwards per image" in shown.output
    assert "Left out: pfami" in shown.output
    found = json.loads(CliRunner().invoke(app, ["scan", str(job), "--budget", "12", "--dry-run", "--json"]).stdout)
    assert found["together"]["forwards"] == found["proposal"]["passes"] <= 12
    both = CliRunner().invoke(app, ["scan", str(job), "--budget", "12", "--set", "attacks.loss.draws=3", "--dry-run"])
    assert isinstance(both.exception, ConfigError)
    assert "--budget chooses the attacks" in str(both.exception)
