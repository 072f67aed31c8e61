"""The area under the first hundredth of the ROC curve, brought to the scale of the whole area."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from raymia.evaluation.bootstrap import Resampled
from raymia.evaluation.measures.base import Measure
from raymia.evaluation.roc import Floats, Roc

MAX_FPR = 0.01


class PartialAuc(Measure):
    """How well members are told from the one non-member in a hundred that looks most like one.

    Where the TPR at 1 % FPR is one point of the curve, this is all of it up to there. With the area A below FPR m = 1 %, it is
    (1 + (A - m^2/2) / (m - m^2/2)) / 2: 1 for a perfect score, .5 for guessing, as of an AUC. The curve between two
    thresholds is a line, and so is its last piece up to m. Source: McClish, Analyzing a Portion of the ROC Curve, 1989;
    the same as scikit-learn's ``roc_auc_score(max_fpr=0.01)``.
    """

    name: ClassVar[str] = "partial_auc_1_percent"
    heading: ClassVar[str] = "pAUC to 1 % FPR"
    chance: ClassVar[float] = 0.5
    order: ClassVar[int] = 40
    terminal: ClassVar[bool] = True

    def value(self, curve: Roc) -> float:
        """See the class."""
        inside = int(np.searchsorted(curve.fpr, MAX_FPR, side="right"))
        fpr = np.append(curve.fpr[:inside], MAX_FPR)
        tpr = np.append(curve.tpr[:inside], np.interp(MAX_FPR, curve.fpr, curve.tpr))
        return float(_standardised(np.trapezoid(tpr, fpr)))

    def draws(self, resampled: Resampled) -> Floats:
        """The area member by member: each raises the curve by its weight from where it is accused up to the FPR.

        Only members that are accused before that in some draw are looked at: the rest adds nothing.
        """
        limit = MAX_FPR * resampled.n_non_members
        whole = np.int32(np.ceil(limit))
        accused = max(int(row.searchsorted(whole)) for row in resampled.above)
        above, weights = resampled.above[:, :accused], resampled.weights[:, :accused]
        if resampled.at_or_above is resampled.above:
            gained = np.clip(limit - above, 0.0, None)
        else:
            at_or_above = resampled.at_or_above[:, :accused]
            # Up to the last of its ties a member's share of the curve grows in proportion: a triangle, cut at the limit.
            risen = np.clip(np.minimum(at_or_above, limit) - above, 0.0, None)
            gained = risen**2 / (2.0 * np.maximum(at_or_above - above, 1)) + np.clip(limit - at_or_above, 0.0, None)
        area = np.einsum("ij,ij->i", weights, gained, dtype=np.float64)
        return _standardised(area / (resampled.n_members * resampled.n_non_members))


def _standardised(area: Floats) -> Floats:
    """McClish's scale: .5 for the area below the diagonal, 1 for the greatest there can be."""
    least = MAX_FPR**2 / 2.0
    return 0.5 * (1.0 + (area - least) / (MAX_FPR - least))
