"""The exact ROC curve of a score and the statistics read off it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import auc, roc_curve

Floats = NDArray[np.float64]

FPRS = (0.1, 0.01, 0.001)
"""False-positive rates at which the true-positive rate is reported."""


@dataclass(frozen=True)
class Roc:
    """An exact ROC curve: every distinct threshold, no interpolation."""

    fpr: Floats
    tpr: Floats

    @property
    def auc(self) -> float:
        """Area under the curve; ties count half."""
        return float(auc(self.fpr, self.tpr))

    def tpr_at(self, fpr: float) -> float:
        """The largest TPR over thresholds whose FPR is at most `fpr`: conservative, never interpolated."""
        return float(self.tpr[np.searchsorted(self.fpr, fpr, side="right") - 1])


def exact_roc(scores: Floats, member: NDArray[np.bool_]) -> Roc:
    """ROC of `scores`, higher meaning member.

    Raises:
        ValueError: a class is empty, or a score is not finite.
    """
    if not member.any() or member.all():
        raise ValueError("a ROC curve needs members and non-members")
    fpr, tpr, _ = roc_curve(member, scores, drop_intermediate=False)
    return Roc(fpr, tpr)
