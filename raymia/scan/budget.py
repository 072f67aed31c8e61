"""Attacks for a number of forwards per image, proposed from the leaderboard."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

from pydantic import BaseModel

from raymia.attacks.base import ATTACKS
from raymia.config import Job, parse_job
from raymia.errors import ConfigError
from raymia.replica.folder import PipelineFolder
from raymia.replica.schedule import Schedule
from raymia.scan.cost import count
from raymia.scan.leaderboard import Entry, Leaderboard, passes, shipped_leaderboard
from raymia.scan.plan import attacked, check_attacks

CONTROLS = ("autoencoder", "random")
"""Attacks that a proposal always holds: they cost no forward."""
MOST_AUC = 0.9999
"""An AUC that counts for no more than this: with few samples 1 is nothing special."""


class Proposal(BaseModel):
    """Attacks for a budget."""

    budget: int
    version: str
    """Of raymia that measured the leaderboard."""
    reported_on: list[str]
    """Models that its AUCs are of."""
    entries: list[Entry]
    passes: int
    """Forwards per image together, a backward counting for two; what attacks share is counted once."""
    left_out: dict[str, str]
    """Why, by attack."""


def propose(job: Job, budget: int, table: Leaderboard | None = None) -> tuple[Job, Proposal]:
    """The job with attacks for a budget instead of its own.

    Of each attack at most one setting is taken, so that the sum of d'^2 is largest: scores that are normal and independent
    are together as good as one whose d'^2 is the sum of theirs. d' is that of the lowest AUC among the models that the
    leaderboard reports on. Attacks that the job's access does not allow, or that the model cannot be told of, are left out.

    Args:
        job: whose attacks do not matter.
        budget: forwards per image, a backward counting for two.
        table: the leaderboard; by default the shipped one.

    Raises:
        ConfigError: the job attacks a service, or nothing fits the budget.
    """
    if job.hosted is not None:
        raise ConfigError(f"--budget: service {job.hosted.service} offers images alone, and no forwards; choose the attacks")
    table = table or shipped_leaderboard()
    pipeline, schedule = attacked(job)
    possible, left_out = _possible(job, budget, table, pipeline, schedule)
    chosen = best(possible, budget, table.reported_on)
    if not chosen:
        reasons = "; ".join(f"{attack}: {reason}" for attack, reason in left_out.items())
        raise ConfigError(f"--budget {budget}: no attack fits; {reasons}")
    taken = {entry.attack for entry in chosen}
    left_out |= {entry.attack: "adds less than what was chosen" for entry in possible if entry.attack not in taken}
    proposed = _with(job, {entry.attack: entry.parameters for entry in chosen} | {name: {} for name in CONTROLS})
    together = count(proposed.attacks.values(), schedule)
    proposal = Proposal(
        budget=budget,
        version=table.version,
        reported_on=table.reported_on,
        entries=chosen,
        passes=passes(together),
        left_out=left_out,
    )
    return proposed, proposal


def best(entries: Iterable[Entry], budget: int, models: Sequence[str]) -> list[Entry]:
    """At most one entry of each attack, within the budget, whose sum of d'^2 is largest; the best first.

    Args:
        models: on the worst of which an entry counts.
    """
    by_attack: dict[str, list[Entry]] = {}
    for entry in entries:
        by_attack.setdefault(entry.attack, []).append(entry)
    # The best choice among the attacks so far, by the forwards that it may take.
    reached: list[tuple[float, list[Entry]]] = [(0.0, [])] * (budget + 1)
    for settings in by_attack.values():
        before = list(reached)
        for entry in settings:
            worth = evidence(entry.lowest_auc(list(models)))
            for room in range(entry.passes, budget + 1):
                value, chosen = before[room - entry.passes]
                if worth > 0 and value + worth > reached[room][0]:
                    reached[room] = value + worth, [*chosen, entry]
    return sorted(reached[budget][1], key=lambda entry: -entry.lowest_auc(list(models)))


def evidence(auc: float) -> float:
    """d'^2 of normal scores with this AUC; 0 where it tells nothing."""
    return (math.sqrt(2) * NormalDist().inv_cdf(min(auc, MOST_AUC))) ** 2 if auc > 0.5 else 0.0


def _possible(
    job: Job, budget: int, table: Leaderboard, pipeline: PipelineFolder | None, schedule: Schedule
) -> tuple[list[Entry], dict[str, str]]:
    """Entries that can run in the job within the budget, and why attacks without one cannot."""
    possible: list[Entry] = []
    left_out: dict[str, str] = {}
    for attack in (name for name in ATTACKS.names() if name not in CONTROLS):
        entries = [entry for entry in table.entries if entry.attack == attack]
        within = [entry for entry in entries if entry.passes <= budget]
        runs, reason = [], "stands in no leaderboard"
        if entries:
            reason = f"takes {min(entry.passes for entry in entries)} forwards at least"
        for entry in within:
            try:
                check_attacks(_with(job, {attack: entry.parameters}), pipeline, schedule)
                runs.append(entry)
            except ConfigError as error:
                reason = str(error).partition(f"attacks.{attack}: ")[2] or str(error)
        possible += runs
        if not runs:
            left_out[attack] = reason
    return possible, left_out


def _with(job: Job, attacks: Mapping[str, Mapping[str, Any]]) -> Job:
    """The job with other attacks.

    Raises:
        ConfigError: the job does not allow one.
    """
    return parse_job({**job.model_dump(mode="json"), "attacks": dict(attacks)}, "--budget")
