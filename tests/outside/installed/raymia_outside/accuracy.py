"""Accuracy at the best threshold, were half of the samples members."""

from __future__ import annotations

from typing import ClassVar

from raymia.evaluation.bootstrap import Resampled
from raymia.evaluation.measures.base import Measure
from raymia.evaluation.roc import Floats, Roc


class Accuracy(Measure):
    """(1 + max(TPR - FPR)) / 2 over all thresholds."""

    name: ClassVar = "outside_accuracy"
    heading: ClassVar = "Best accuracy"
    chance: ClassVar = 0.5

    def value(self, curve: Roc) -> float:
        return float(1 + (curve.tpr - curve.fpr).max()) / 2

    def draws(self, resampled: Resampled) -> Floats:
        tpr = resampled.hits[:, 1:] / resampled.n_members
        fpr = resampled.at_or_above / resampled.n_non_members
        best: Floats = (1 + (tpr - fpr).max(axis=1, initial=0.0)) / 2
        return best
