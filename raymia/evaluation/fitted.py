"""Every score that is fitted to labelled samples: blind baselines, combinations of signals, and adjusted signals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pandas as pd

from raymia.evaluation.adjusted import adjusted_scores
from raymia.evaluation.blind import blind_scores
from raymia.evaluation.combined import combined_scores
from raymia.evaluation.labelled import LabelledSamples
from raymia.evaluation.roc import Floats
from raymia.evaluation.signals import ADJUSTED, APPEARANCE
from raymia.run.record import Access, SignalRecord


@dataclass(frozen=True)
class FittedScores:
    """Scores out of fold, higher meaning member.

    Attributes:
        blind: (n,) by name: ``blind.caption``.
        combined: (n,) by name: ``combined.grey``.
        adjusted: (n,) by name: ``adjusted.loss``.
        access: that an adjusted signal needs, by name.
        appearance: (n,) by the name ``control.appearance``, where there are adjusted signals.
        others: (m,) scores of further samples, of those columns that can say something of them.
    """

    blind: Mapping[str, Floats]
    combined: Mapping[str, Floats]
    adjusted: Mapping[str, Floats] = field(default_factory=dict)
    access: Mapping[str, str] = field(default_factory=dict)
    appearance: Mapping[str, Floats] = field(default_factory=dict)
    others: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def columns(self) -> dict[str, Floats]:
        """All of them."""
        return {**self.blind, **self.combined, **self.adjusted, **self.appearance}

    @property
    def signals(self) -> dict[str, SignalRecord]:
        """What is to be said of each column."""
        access = dict.fromkeys(self.blind, "blind") | {name: name.removeprefix("combined.") for name in self.combined}
        access |= {**self.access, **dict.fromkeys(self.appearance, str(Access.CONTROL))}
        return {name: SignalRecord(name=name, attack=name, access=own, primary=True) for name, own in access.items()}

    def beside(self, labelled: LabelledSamples) -> LabelledSamples:
        """The samples with their adjusted scores beside their signals."""
        signals = {name: self.signals[name] for name in self.adjusted}
        return replace(labelled, columns={**labelled.columns, **self.adjusted}, signals={**labelled.signals, **signals})


def fit_scores(labelled: LabelledSamples, others: pd.DataFrame | None = None) -> FittedScores:
    """Fit every blind baseline, combination and adjustment; none of any where the classes are too small for folds.

    Args:
        others: a table of m samples that take no part in any fit.
    """
    blind = blind_scores(labelled.rows, labelled.member, labelled.seed, labelled.groups)
    adjusted = adjusted_scores(labelled, others)
    return FittedScores(
        blind={f"blind.{name}": scores for name, scores in blind.items()},
        combined=combined_scores(labelled),
        adjusted=adjusted.labelled,
        access={name: labelled.signals[name.removeprefix(ADJUSTED)].access for name in adjusted.labelled},
        appearance={} if adjusted.appearance is None else {APPEARANCE: adjusted.appearance},
        others=adjusted.others,
    )
