"""The area under the ROC curve."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from raymia.evaluation.bootstrap import Resampled
from raymia.evaluation.measures.base import Measure
from raymia.evaluation.roc import Floats, Roc


class Auc(Measure):
    """The chance that a member scores above a non-member, ties counting half: Mann-Whitney's U over the number of pairs."""

    name: ClassVar[str] = "auc"
    heading: ClassVar[str] = "AUC"
    chance: ClassVar[float] = 0.5
    order: ClassVar[int] = 0
    terminal: ClassVar[bool] = True

    def value(self, curve: Roc) -> float:
        """See `Roc.auc`."""
        return curve.auc

    def draws(self, resampled: Resampled) -> Floats:
        """One minus the share of pairs that are lost: each member against the non-members above it, and half of its ties."""
        doubled = resampled.above + resampled.at_or_above
        lost = np.einsum("ij,ij->i", resampled.weights, doubled, dtype=np.float64)
        areas: Floats = 1.0 - lost / (2.0 * resampled.n_members * resampled.n_non_members)
        return areas
