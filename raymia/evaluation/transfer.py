"""What an attacker achieves who must choose signal and threshold before seeing the samples in question."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from raymia.evaluation.intervals import Interval, proportion
from raymia.evaluation.labelled import LabelledSamples
from raymia.evaluation.roc import FPRS, Floats
from raymia.evaluation.signals import LEVELS
from raymia.run.record import Access


class Transfer(BaseModel):
    """Signal and threshold chosen on one part, and what they achieve on the other."""

    access: str
    target_fpr: float
    signal: str
    """The one with the largest TPR at the target FPR on the part it was chosen on."""
    threshold: float
    candidates: int
    """Signals that it was chosen from."""
    chosen_tpr: float
    """TPR where it was chosen: what reporting the best of many would claim."""
    tpr: Interval
    fpr: Interval
    n_members: int
    n_non_members: int


def halves(labelled: LabelledSamples) -> tuple[LabelledSamples, LabelledSamples]:
    """A random half of each class to choose on, and the other to report on; the samples of a group stand on one side."""
    member, groups = labelled.member, labelled.groups
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    chosen, _ = next(splitter(2, shuffle=True, random_state=labelled.seed).split(member, member, groups))
    mask = np.zeros(len(member), bool)
    mask[chosen] = True
    return labelled.part(mask), labelled.part(~mask)


def transfer(choose: LabelledSamples, report: LabelledSamples) -> list[Transfer]:
    """Choose on some samples and report on others, for each access level and target FPR.

    Controls and blind baselines are no candidates, nor are signals that one of the two lacks.
    """
    rows = []
    below: list[str] = []
    for level in LEVELS:
        names = [name for name in report.signals_of(level) if name in choose.columns]
        if len(names) > len(below):
            rows += [_at(choose, report, names, level, target) for target in FPRS]
        below = names
    return rows


def _at(choose: LabelledSamples, report: LabelledSamples, names: list[str], level: Access, target: float) -> Transfer:
    thresholds = {name: _threshold(choose.columns[name], choose.member, target) for name in names}
    best = max(names, key=lambda name: (thresholds[name][0], roc_auc_score(choose.member, choose.columns[name])))
    claimed, threshold = thresholds[best]
    accused = report.columns[best] >= threshold
    return Transfer(
        access=str(level),
        target_fpr=target,
        signal=best,
        threshold=threshold,
        candidates=len(names),
        chosen_tpr=claimed,
        tpr=proportion(accused[report.member]),
        fpr=proportion(accused[~report.member]),
        n_members=report.n_members,
        n_non_members=report.n_non_members,
    )


def _threshold(scores: Floats, member: NDArray[np.bool_], target: float) -> tuple[float, float]:
    """Largest TPR whose FPR is at most `target`, and the lowest score that is accused there."""
    fpr, tpr, thresholds = roc_curve(member, scores, drop_intermediate=False)
    place = int(np.searchsorted(fpr, target, side="right")) - 1
    place = int(np.searchsorted(tpr, tpr[place]))  # of equal TPRs the one that accuses fewest
    # The first point of the curve accuses nobody: just above the largest score.
    threshold = thresholds[place] if place else np.nextafter(scores.max(), np.inf)
    return float(tpr[place]), float(threshold)
