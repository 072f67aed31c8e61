"""Every score that is fitted to the labels: blind baselines, and combinations of signals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from raymia.evaluation.blind import blind_scores
from raymia.evaluation.combined import combined_scores
from raymia.evaluation.labelled import LabelledSamples
from raymia.evaluation.roc import Floats
from raymia.run.record import SignalRecord


@dataclass(frozen=True)
class FittedScores:
    """Scores out of fold, higher meaning member.

    Attributes:
        blind: (n,) by name: ``blind.caption``.
        combined: (n,) by name: ``combined.grey``.
    """

    blind: Mapping[str, Floats]
    combined: Mapping[str, Floats]

    @property
    def columns(self) -> dict[str, Floats]:
        """All of them."""
        return {**self.blind, **self.combined}

    @property
    def signals(self) -> dict[str, SignalRecord]:
        """What is to be said of each column."""
        access = dict.fromkeys(self.blind, "blind") | {name: name.removeprefix("combined.") for name in self.combined}
        return {name: SignalRecord(name=name, attack=name, access=own, primary=True) for name, own in access.items()}


def fit_scores(labelled: LabelledSamples) -> FittedScores:
    """Fit every blind baseline and every combination; none of either where the classes are too small for folds."""
    blind = blind_scores(labelled.rows, labelled.member, labelled.seed, labelled.groups)
    return FittedScores({f"blind.{name}": scores for name, scores in blind.items()}, combined_scores(labelled))
