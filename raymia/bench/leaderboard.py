"""Attacks judged on more than one model: settings are chosen on one and reported on the others."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from raymia.attacks.base import ATTACKS, Attack, signal_key
from raymia.bench.attacks import load_samples, score_all
from raymia.config import Job, parse_job, read_job
from raymia.errors import ConfigError
from raymia.evaluation.bootstrap import bootstrap
from raymia.evaluation.intervals import interval
from raymia.evaluation.measures.auc import Auc
from raymia.evaluation.measures.base import statistics
from raymia.evaluation.measures.tpr_at_1_percent import TprAtOnePercent
from raymia.evaluation.roc import exact_roc
from raymia.scan.leaderboard import Entry, Figure, Figures, Leaderboard, passes
from raymia.scan.scorer import load_scorer
from raymia.shipped import NAMED
from raymia.testbed import TESTBED
from raymia.testbed.architecture import RESOLUTION_PX

log = logging.getLogger(__name__)

GAIN = 0.005
"""By how much a dearer setting's AUC must be above that of every cheaper one of its attack to be listed."""
Setting = tuple[str, Mapping[str, Any]]
"""An attack with parameters that differ from its defaults."""
Columns = Mapping[str, NDArray[np.float64]]
"""(n,) scores by signal."""
Scored = tuple[Columns, NDArray[np.bool_]]
"""Scores by signal, and (n,) labels."""
SETTINGS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "clid": (
        {"timesteps": [300], "draws": 1, "words": []},
        {"timesteps": [200, 400], "draws": 1, "words": []},
        {"timesteps": [200, 400], "draws": 2, "words": []},
        {"timesteps": [200, 300, 400], "draws": 3, "words": []},
        {"words": []},
        {"noise": "shared"},
    ),
    "denoising": (
        {"presets": ["short_300"], "errors": ["latent"], "draws": 1},
        {"presets": ["reversed_noising"], "errors": ["model"], "draws": 1},
        {"presets": ["partial"], "errors": ["latent"], "draws": 1},
    ),
    "generation": ({"images": 1, "steps": 10},),
    "gradient": (
        {"timesteps": [300], "direction_draws": 2},
        {"timesteps": [100, 300, 500], "direction_draws": 2},
    ),
    "gradient_masking": ({"timesteps": [250]}, {"timesteps": [100, 300, 500]}),
    "loss": (
        {"timesteps": [300], "draws": 1},
        {"timesteps": [500], "draws": 1},
        {"timesteps": [300, 400, 500], "draws": 1, "noise": "own"},
        {"timesteps": [300, 400, 500], "draws": 3, "noise": "own"},
        {"noise": "own"},
    ),
    "memorisation": ({"draws": 1},),
    "noise_optimisation": ({"steps": 2}, {"timestep": 300, "steps": 2}),
    "pfami": (
        {"timesteps": [200], "crops": [0.8]},
        {"timesteps": [100, 300], "crops": [0.8]},
        {"timesteps": [100, 200, 300], "crops": [0.9, 0.8]},
    ),
    "pia": ({"timesteps": [200], "timestep": 200}, {"timesteps": [300], "timestep": 300}),
    "pokemon": (
        {"timesteps": [300], "steps": 3, "draws": 1, "metrics": ["ssim"]},
        {"timesteps": [300], "steps": 10, "draws": 1, "metrics": ["ssim", "clip"]},
        {"metrics": ["ssim", "clip"]},
    ),
    "rediffuse": (
        {"timesteps": [200], "timestep": 200, "variations": 2},
        {"timesteps": [200], "timestep": 200},
        {"timesteps": [300], "timestep": 300, "steps": 3},
        {"timesteps": [50], "guidance": 7.5},
        {"timesteps": [200], "timestep": 200, "guidance": 7.5},
    ),
    "secmi": (
        {"timesteps": [20], "timestep": 20, "step": 20},
        {"timesteps": [20], "timestep": 20},
        {"timesteps": [50], "timestep": 50},
        {"timesteps": [50], "timestep": 50, "step": 50},
    ),
    "sima": tuple({"timesteps": [t], "timestep": t} for t in (10, 50, 100, 300)),
}
"""Further settings of the attacks that are tried beside their defaults."""


def make_leaderboard(
    models: Sequence[str],
    choose_on: str,
    report_on: Sequence[str] = (),
    attacks: Sequence[str] = (),
    samples: int | None = None,
    report: Callable[[str], None] = log.info,
) -> Leaderboard:
    """Score each model's samples by every setting of every attack, choose on one model and report on all.

    Of each attack stand its defaults with the primary signal; and, from cheap to dear, each setting whose best signal beats
    all cheaper settings' on the model to choose on by `GAIN`.

    Args:
        models: ``testbed`` and its kin, or job files whose manifests have members and non-members.
        choose_on: one of them.
        report_on: others of them; by default all others.
        attacks: names; by default all that need no model of the network.
        samples: images of each model, half of them members; by default as many as there are.
        report: is told how far it has come, in lines.

    Raises:
        ConfigError: an unknown model or attack, too few samples, or a model that is chosen and reported on.
    """
    report_on = list(report_on) or [model for model in models if model != choose_on]
    _check_models(models, choose_on, report_on)
    settings = settings_of(attacks)
    scored: dict[str, Scored] = {}
    for model, job in {model: subject(model, settings) for model in models}.items():
        report(f"{model}: {len(settings)} settings of {len({name for name, _ in settings.values()})} attacks")
        scored[model] = _score(job, samples)
    chosen = choose(settings, *scored[choose_on])
    names = [name for name, _ in chosen]
    figures = {
        model: figures_of({name: columns[name] for name in names}, member) for model, (columns, member) in scored.items()
    }
    return Leaderboard(
        version=version("raymia"),
        chosen_on=choose_on,
        reported_on=report_on,
        samples={model: len(member) for model, (_, member) in scored.items()},
        entries=[_entry(name, settings[key], {model: figures[model][name] for model in models}, key) for name, key in chosen],
    )


def settings_of(attacks: Sequence[str] = ()) -> dict[str, Setting]:
    """The settings to try, by what a job may call them: defaults by the attack's name, others as its variants.

    Defaults that need weights of the network stand no trial, nor do those that look for copies, which few members are.

    Args:
        attacks: names; by default all.

    Raises:
        ConfigError: an unknown attack.
    """
    settings: dict[str, Setting] = {}
    for name in attacks or ATTACKS.names():
        if not ATTACKS.get(name)().needs() & {"lpips", "copies"}:
            settings[name] = name, {}
        settings |= {f"{name}:{place}": (name, further) for place, further in enumerate(SETTINGS.get(name, ()))}
    return settings


def subject(model: str, settings: Mapping[str, Setting]) -> Job:
    """A job that scans a model's members and non-members by these settings.

    Args:
        model: a name of the test bed's kin, or a job file, whose own attacks do not matter.

    Raises:
        ConfigError: neither is there.
    """
    attacks = {key: dict(parameters) for key, (_, parameters) in settings.items()}
    if model not in NAMED.names():
        return parse_job({**read_job(Path(model), None, "unused"), "attacks": attacks}, model)
    replica: dict[str, Any] = {"model": model, "resolution_px": RESOLUTION_PX}
    if NAMED.get(model)().adapter() is not None:
        replica |= {"model": TESTBED, "adapters": [{"path": model}]}
    content = {"manifest": model, "replica": replica, "attacks": attacks, "clip": TESTBED, "run": "unused"}
    return parse_job(content, f"--models {model}")


def choose(settings: Mapping[str, Setting], columns: Columns, member: NDArray[np.bool_]) -> list[tuple[str, str]]:
    """The signals to list, each with the setting that it is of: see `make_leaderboard`.

    Args:
        columns: scores by signal on the model to choose on.
        member: (n,) labels.
    """
    chosen: list[tuple[str, str]] = []
    for attack in dict.fromkeys(name for name, _ in settings.values()):
        keys = [key for key, (name, _) in settings.items() if name == attack]
        keys.sort(key=lambda key: (passes(_attack(settings[key]).cost()), key))
        reached = 0.0
        for key in keys:
            attack_of_key = _attack(settings[key])
            signals = [signal_key(signal.name, attack_of_key, key) for signal in attack_of_key.signals()]
            aucs = {signal: float(roc_auc_score(member, columns[signal])) for signal in signals}
            name = max(aucs, key=lambda one: aucs[one])
            if aucs[name] >= reached + GAIN and aucs[name] > 0.5:
                chosen.append((name, key))
                reached = aucs[name]
            if key == attack and (key, key) not in chosen:
                chosen.append((key, key))
    return chosen


def figures_of(columns: Columns, member: NDArray[np.bool_]) -> dict[str, Figures]:
    """AUC and TPR at 1 % FPR of each column, with bootstrap intervals."""
    measures = (Auc(), TprAtOnePercent())
    draws = bootstrap(columns, member, statistics(measures))
    figures = {}
    for name, column in columns.items():
        curve = exact_roc(column, member)
        auc, tpr = (interval(measure.value(curve), draws[name][measure.name]) for measure in measures)
        figures[name] = Figures(auc=Figure(**dict(auc)), tpr=Figure(**dict(tpr)))
    return figures


def _check_models(models: Sequence[str], choose_on: str, report_on: Sequence[str]) -> None:
    unknown = [model for model in (choose_on, *report_on) if model not in models]
    if unknown:
        raise ConfigError(f"{unknown[0]} is not among --models {','.join(models)}")
    if not report_on or choose_on in report_on:
        raise ConfigError(
            "--report-on: expected models other than that of --choose-on; what is chosen on one is too good there"
        )


def _score(job: Job, samples: int | None) -> Scored:
    pixels, captions, keys, member = load_samples(samples, job.manifest, job.replica.resolution_px)
    return score_all(load_scorer(job, "float32", "auto", os.cpu_count()), pixels, captions, keys), member


def _entry(name: str, setting: Setting, figures: dict[str, Figures], key: str) -> Entry:
    attack, parameters = setting
    made = _attack(setting)
    signal = attack + name.removeprefix(key)
    access, cost = str(made.access), made.cost()
    return Entry(attack=attack, parameters=dict(parameters), signal=signal, access=access, cost=cost, figures=figures)


def _attack(setting: Setting) -> Attack:
    name, parameters = setting
    return ATTACKS.get(name).model_validate(parameters)
