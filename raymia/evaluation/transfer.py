"""What an attacker achieves who must choose signal and threshold before seeing the samples in question."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from raymia.evaluation.combined import LEVELS, signals_of
from raymia.evaluation.crossfit import Groups
from raymia.evaluation.intervals import LEVEL, Interval
from raymia.evaluation.roc import FPRS, Floats
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


def halves(member: NDArray[np.bool_], seed: int, groups: Groups = None) -> NDArray[np.bool_]:
    """A random half of each class, the samples of a group on one side: true for the half to choose on."""
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    chosen, _ = next(splitter(2, shuffle=True, random_state=seed).split(member, member, groups))
    mask = np.zeros(len(member), bool)
    mask[chosen] = True
    return mask


def transfer(
    choose: pd.DataFrame,
    choose_member: NDArray[np.bool_],
    report: pd.DataFrame,
    report_member: NDArray[np.bool_],
    access: Mapping[str, str],
) -> list[Transfer]:
    """Choose on one table and report on the other, for each access level and target FPR.

    Args:
        choose, report: tables with one column per signal.
        choose_member, report_member: their labels.
        access: access by signal; controls and blind baselines are no candidates.
    """
    found = []
    below: list[str] = []
    for level in LEVELS:
        names = [name for name in signals_of(level, access) if name in choose and name in report]
        if len(names) > len(below):
            found += [_at(choose, choose_member, report, report_member, names, level, target) for target in FPRS]
        below = names
    return found


def _at(
    choose: pd.DataFrame,
    choose_member: NDArray[np.bool_],
    report: pd.DataFrame,
    report_member: NDArray[np.bool_],
    names: list[str],
    level: Access,
    target: float,
) -> Transfer:
    thresholds = {name: _threshold(choose[name].to_numpy(float), choose_member, target) for name in names}
    best = max(names, key=lambda name: (thresholds[name][0], roc_auc_score(choose_member, choose[name])))
    claimed, threshold = thresholds[best]
    accused = report[best].to_numpy(float) >= threshold
    return Transfer(
        access=str(level),
        target_fpr=target,
        signal=best,
        threshold=threshold,
        candidates=len(names),
        chosen_tpr=claimed,
        tpr=_proportion(accused[report_member]),
        fpr=_proportion(accused[~report_member]),
        n_members=int(report_member.sum()),
        n_non_members=int((~report_member).sum()),
    )


def _threshold(scores: Floats, member: NDArray[np.bool_], target: float) -> tuple[float, float]:
    """Largest TPR whose FPR is at most `target`, and the lowest score that is accused there."""
    fpr, tpr, thresholds = roc_curve(member, scores, drop_intermediate=False)
    place = int(np.searchsorted(fpr, target, side="right")) - 1
    place = int(np.searchsorted(tpr, tpr[place]))  # of equal TPRs the one that accuses fewest
    # The first point of the curve accuses nobody: just above the largest score.
    threshold = thresholds[place] if place else np.nextafter(scores.max(), np.inf)
    return float(tpr[place]), float(threshold)


def _proportion(hits: NDArray[np.bool_]) -> Interval:
    count = int(hits.sum())
    exact = binomtest(count, len(hits)).proportion_ci(confidence_level=LEVEL, method="exact")
    return Interval(value=count / len(hits), low=float(exact.low), high=float(exact.high))
