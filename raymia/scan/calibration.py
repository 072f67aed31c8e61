"""Scores held against those of a reference, a model close to the attacked one that did not learn the works in question."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import Tensor

from raymia.attacks.base import Access, Attack, signal_key
from raymia.replica.protocol import Replica
from raymia.run.record import Evaluations, SignalRecord
from raymia.trial.trial import Trial

CALIBRATED = "calibrated."
"""Before the names of attacks and signals that are held against a reference."""


@dataclass(frozen=True)
class Reference:
    """A reference on the device of the attacked model.

    Attributes:
        replica: it may be the attacked model's own, whose adapters are switched off.
        same_latents: its autoencoder is the attacked model's.
        same_texts: its text encoders are the attacked model's.
        at_hand: within its block the replica is the reference.
    """

    replica: Replica
    same_latents: bool
    same_texts: bool
    at_hand: Callable[[], AbstractContextManager[None]] = nullcontext


def scores_of(attacks: Mapping[str, Attack], trial: Trial) -> dict[str, Tensor]:
    """The columns of attacks, by their names in a job."""
    columns: dict[str, Tensor] = {}
    for key, attack in attacks.items():
        columns |= {signal_key(signal, attack, key): scores for signal, scores in attack.score(trial).items()}
    return columns


def calibrated(
    attacks: Mapping[str, Attack], trial: Trial, columns: Mapping[str, Tensor], reference: Reference
) -> tuple[dict[str, Tensor], Evaluations]:
    """What the attacked model's scores are above the reference's, of the same images under the same noise, levels and captions.

    Args:
        attacks: by their names in the job.
        trial: in front of the attacked model.
        columns: what the attacks found in it.
        reference: in front of which they run again, but for controls, which have nothing to do with a model.

    Returns:
        The columns, and what the reference evaluated.
    """
    again = {key: attack for key, attack in attacks.items() if calibrates(attack)}
    other = trial.under(reference.replica, reference.same_latents, reference.same_texts)
    with reference.at_hand():
        found = scores_of(again, other)
    return {f"{CALIBRATED}{name}": columns[name] - scores for name, scores in found.items()}, other.evaluations


def calibrates(attack: Attack) -> bool:
    """Whether an attack's scores can be held against a reference's."""
    return attack.access != Access.CONTROL


def with_reference(cost: Evaluations) -> Evaluations:
    """What an attack costs in front of two models with one autoencoder."""
    return cost + cost.model_copy(update={"encodes": 0})


def calibrated_signal(signal: SignalRecord) -> SignalRecord:
    """A signal held against a reference: an attack of its own, at the cost of two, which encode once."""
    twice = None if signal.cost is None else with_reference(signal.cost)
    names = {"name": f"{CALIBRATED}{signal.name}", "attack": f"{CALIBRATED}{signal.attack}"}
    return signal.model_copy(update={**names, "cost": twice})
