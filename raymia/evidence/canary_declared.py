"""What a hold-back will be tested by, said before anything is published, and held against what is asked then."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raymia.attacks.base import ATTACKS, Access, Attack
from raymia.config import FREE_TO_CHANGE, Job, override_field, parse_job, read_job
from raymia.errors import ConfigError, describe_validation, suggest
from raymia.evaluation.canary import REDRAWS
from raymia.evidence.asking import Asked
from raymia.scan.budget import CONTROLS
from raymia.scan.calibration import CALIBRATED

ALPHA = 0.05
STATISTIC = (
    "one-sided; the highest, over signals, of the difference between the means of published and held-back units, each in "
    "standard deviations of all units; a unit's score is the mean of its works; held against redraws of the same kind"
)
LATER = ("parameters", "options")
"""Fields that plans of format 1 have not."""
OTHERS = ("manifest", "run")
"""Fields of a job that say nothing of the model or of how it is asked."""
SOME = "-"
"""Stands for what a plan leaves open, such as the model."""


class Declared(BaseModel):
    """What will be tested, said before anything is published."""

    model_config = ConfigDict(extra="forbid")

    statistic: str = STATISTIC
    attacks: list[str] = []
    """Whose primary signals count; none named for those of all attacks that are run."""
    signals: list[str] = []
    """That count, and no others; none named for the primary signals."""
    parameters: dict[str, dict[str, Any]] = {}
    """All of each attack that this needs, so that none is chosen after a look at scores. Left out is what nobody set and a
    service may have to choose itself: it is as its default, or the service's own."""
    options: dict[str, Any] = {}
    """Further fields of the job that are fixed, by their names with dots."""
    redraws: int = Field(REDRAWS, ge=99, le=10_000_000)
    alpha: float = Field(ALPHA, gt=0, lt=1)
    """The published half counts as learnt from where p is no larger."""

    def needed(self) -> list[str]:
        """Names of the attacks that what is declared needs."""
        return list(dict.fromkeys([*self.attacks, *map(_attack_of, self.signals)]))


def declared(attacks: list[str], signals: list[str], redraws: int, alpha: float, changes: Sequence[str] = ()) -> Declared:
    """What will be tested.

    Args:
        attacks: whose primary signals count.
        signals: that count instead.
        redraws: that the true draw will be held against.
        alpha: chance of a false finding that is put up with.
        changes: ``FIELD=VALUE`` of the job that will ask: parameters of these attacks, and whatever else is to be fixed.

    Raises:
        ConfigError: names what is unknown, or out of bounds.
    """
    if attacks and signals:
        raise ConfigError("--attack and --signal: name the attacks, whose primary signals count, or single signals")
    attacks, signals = list(dict.fromkeys(attacks)), list(dict.fromkeys(signals))
    option = "--attack" if attacks else "--signal"
    names = list(dict.fromkeys([*attacks, *map(_attack_of, signals)]))
    for name in names:
        if name not in ATTACKS.names():
            raise ConfigError(f"{option}: no attack {name!r}{suggest(name, ATTACKS.names())}; `raymia attacks` lists them")
        if ATTACKS.get(name).access == Access.CONTROL or name in CONTROLS:
            raise ConfigError(f"{option}: {name} is a control and no attack; `raymia attacks` lists them")
    parameters, options = _fixed(names, changes)
    for signal in signals:
        _require_signal(signal, parameters)
    try:
        test = Declared(attacks=attacks, signals=signals, parameters=parameters, options=options, redraws=redraws, alpha=alpha)
    except ValidationError as error:
        raise ConfigError(f"the test: {describe_validation(error, Declared)}") from error
    if (least := 1 / (redraws + 1)) > alpha:
        raise ConfigError(f"--redraws {redraws}: p will be {least:.2g} or more, and --alpha is {alpha:g}; take more")
    return test


def _attack_of(signal: str) -> str:
    return signal.removeprefix(CALIBRATED).split(".")[0]


def _fixed(names: Sequence[str], changes: Sequence[str]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The parameters of attacks, and the further fields that are fixed, as a job has them."""
    content: dict[str, Any] = {}
    for change in changes:
        override_field(content, change)
    section = content.pop("attacks", None) or {}
    if not isinstance(section, dict):
        raise ConfigError("--set attacks: expected parameters by attack, such as attacks.loss.draws=1")
    if other := [name for name in section if name not in names]:
        raise ConfigError(f"--set attacks.{other[0]}: the plan declares no such attack; name it with --attack or --signal")
    job = _job_with(content, {name: section.get(name) or {} for name in names})
    parameters = {
        name: {
            field: value
            for field, value in job.attacks[name].model_dump(mode="json").items()
            if field in (section.get(name) or {}) or field not in _spared(job.attacks[name])
        }
        for name in names
    }
    whole = job.model_dump(mode="json")
    free = [*FREE_TO_CHANGE, *(f"replica.{field}" for field in (job.hosted.free if job.hosted is not None else ()))]
    options = {}
    for path in _leaves(content):
        if any(path == field or path.startswith(f"{field}.") for field in (*OTHERS, *free)):
            raise ConfigError(f"--set {path}: changes no score; leave it to the test")
        options[path] = _value(whole, path)
    return parameters, options


def _job_with(content: Mapping[str, Any], attacks: dict[str, Any]) -> Job:
    """A job of what a plan fixes; what it leaves open is something."""
    replica = content.get("replica") or {}
    if not isinstance(replica, dict):
        raise ConfigError("--set replica: expected fields, such as replica.resolution_px=512")
    somewhere = {"manifest": SOME, "run": SOME, "clip": SOME, "copies": "clip"}
    model = {} if "service" in replica else {"model": SOME}
    some_attacks = attacks or {name: {} for name in CONTROLS}
    return parse_job({**somewhere, **content, "replica": {**model, **replica}, "attacks": some_attacks}, "the plan's --set")


def _leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _value(content: Any, path: str) -> Any:
    """What a nested map has under names with dots between them; none where it has nothing there."""
    for part in path.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def _spared(attack: Attack) -> dict[str, Any]:
    """Fields that an attack leaves to a service which cannot be told them, each with what then stands there."""
    return dict(attack.spares.values())


def _require_signal(signal: str, parameters: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a signal that its attack, under these parameters, does not have."""
    plain, name = signal.removeprefix(CALIBRATED), _attack_of(signal)
    attack = ATTACKS.get(name).model_validate(parameters[name])
    known = [one.name for one in attack.signals()]
    # Some attacks have further signals, for parts of a model that is not known yet.
    if plain not in known and type(attack).signals_by_group is Attack.signals_by_group:
        raise ConfigError(
            f"--signal {signal}: attack {name} has {', '.join(known)}; name one of them, or set its parameters with --set"
        )


def with_declared(test: Declared, asked: Asked) -> Asked:
    """What is asked, with what the plan declares wherever nothing else is said.

    Raises:
        ConfigError: a budget would choose attacks that are declared.
    """
    needed = test.needed()
    if needed and asked.budget is not None:
        raise ConfigError(f"--budget: the plan declares what is tested ({', '.join(needed)}); leave it out")
    said = {} if asked.job_file is None else read_job(asked.job_file, None, None)
    by_option = {"clip": asked.clip, "reference": asked.reference, "replica.adapters": asked.adapters}
    by_option |= {"replica.model": asked.model, "replica.service": asked.service}
    changes = []
    if needed and not said.get("attacks") and not any(change.startswith("attacks=") for change in asked.changes):
        changes.append(f"attacks={json.dumps({name: test.parameters.get(name, {}) for name in needed})}")
    for path, value in test.options.items():
        if not by_option.get(path) and not (path.startswith("reference.") and asked.reference) and _value(said, path) is None:
            changes.append(f"{path}={json.dumps(value)}")
    return replace(asked, changes=(*changes, *asked.changes))


def require_declared(test: Declared, job: Mapping[str, Any], source: str) -> None:
    """Hold a job, as it was resolved, against what the plan declares.

    Args:
        test: that was declared.
        job: dumped as JSON.
        source: of the job, for an error.

    Raises:
        ConfigError: names every field that differs.
    """
    attacks = job.get("attacks") or {}
    differ: list[str] = []
    for name, said in test.parameters.items():
        if name not in attacks:
            raise ConfigError(f"{source}: the plan declares attack {name}, which the scan does not have; scan with it")
        differ += _differing(name, said, attacks[name])
    for path, value in test.options.items():
        if (found := _value(job, path)) != value:
            differ.append(f"{path} is {json.dumps(found)} and was {json.dumps(value)}")
    if differ:
        raise ConfigError(
            f"{source}: is not what the plan declared before anything was published: {'; '.join(differ)}; ask as declared"
        )


def _differing(name: str, said: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    kind = ATTACKS.get(name)
    defaults, spared = kind().model_dump(mode="json"), _spared(kind())
    for field in sorted({*said, *found}):
        # What the plan leaves open, and what this version of the attack alone has, is as it is by default.
        allowed = [said[field]] if field in said else [defaults.get(field), *(spared[field] for _ in [0] if field in spared)]
        if found.get(field) not in allowed:
            yield f"attacks.{name}.{field} is {json.dumps(found.get(field))} and was {json.dumps(allowed[0])}"
