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

Found = dict[str, dict[str, Tensor]]
"""Columns of some samples, by the attack's name in the job and their own."""
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

    def trial(self, trial: Trial) -> Trial:
        """The batch of a trial in front of the reference."""
        return trial.under(self.replica, self.same_latents, self.same_texts)


def scores_of(attacks: Mapping[str, Attack], trial: Trial, found: Found | None = None) -> dict[str, Tensor]:
    """The columns of attacks, by their names in a job.

    Args:
        attacks: by their names in the job.
        trial: of the samples.
        found: what attacks gave for these samples before, which are not asked again; what the others give is put in.
    """
    found = {} if found is None else found
    for key, attack in attacks.items():
        if key not in found:
            found[key] = {signal_key(signal, attack, key): scores for signal, scores in attack.score(trial).items()}
    return {name: scores for key in attacks for name, scores in found[key].items()}


def calibrated(
    attacks: Mapping[str, Attack],
    other: Trial,
    columns: Mapping[str, Tensor],
    reference: Reference,
    found: Found | None = None,
) -> dict[str, Tensor]:
    """What the attacked model's scores are above the reference's, of the same images under the same noise, levels and captions.

    Args:
        attacks: by their names in the job.
        other: the reference's trial.
        columns: what the attacks found in the attacked model.
        reference: in front of which they run again, but for controls, which have nothing to do with a model.
        found: of the reference, see `scores_of`.
    """
    again = {key: attack for key, attack in attacks.items() if calibrates(attack)}
    with reference.at_hand():
        below = scores_of(again, other, found)
    return {f"{CALIBRATED}{name}": columns[name] - scores for name, scores in below.items()}


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
