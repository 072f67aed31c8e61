"""Uncertainty: stratified bootstrap intervals, paired differences, and the noise floor, vectorised over thresholds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy.special import expit, logit
from scipy.stats import norm, rankdata
from statsmodels.stats.multitest import multipletests

from raymia.evaluation.roc import FPRS, Floats, Roc, exact_roc

DRAWS = 1000
LEVEL = 0.95


class Interval(BaseModel):
    """A value with its 95 % interval, on 0..1."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """AUC and TPR at each FPR of `raymia.evaluation.roc.FPRS` in every draw."""

    auc: Floats
    """(draws,)"""
    tpr: Floats
    """(draws, len(FPRS))"""


class _Ordered:
    """Scores grouped by value, highest first: what resampling needs instead of sorting again."""

    def __init__(self, scores: Floats, member: NDArray[np.bool_]) -> None:
        order = np.argsort(-scores, kind="stable")
        new_value = np.r_[True, np.diff(scores[order]) != 0]
        group = np.cumsum(new_value) - 1
        self.groups = int(group[-1]) + 1
        groups = np.empty(len(scores), np.int64)
        groups[order] = group
        self.member_groups, self.other_groups = groups[member], groups[~member]

    def statistics(self, members: NDArray[np.int64], others: NDArray[np.int64]) -> tuple[float, list[float]]:
        """AUC and TPRs for resampled members and non-members, given as value groups."""
        hits = np.bincount(members, minlength=self.groups)
        alarms = np.bincount(others, minlength=self.groups)
        tpr = np.r_[0.0, np.cumsum(hits) / len(members)]
        fpr = np.r_[0.0, np.cumsum(alarms) / len(others)]
        curve = Roc(fpr, tpr)
        return float(np.trapezoid(tpr, fpr)), [curve.tpr_at(rate) for rate in FPRS]


def bootstrap(scores: Floats, member: NDArray[np.bool_], seed: int = 0, draws: int = DRAWS) -> Bootstrap:
    """Resample members and non-members separately, with replacement.

    The same seed and labels resample the same samples, so that two scores of one set can be compared pair by pair.
    """
    ordered = _Ordered(scores, member)
    random = np.random.default_rng(seed)
    n_members, n_others = len(ordered.member_groups), len(ordered.other_groups)
    areas, rates = np.empty(draws), np.empty((draws, len(FPRS)))
    for draw in range(draws):
        members = ordered.member_groups[random.integers(0, n_members, n_members)]
        others = ordered.other_groups[random.integers(0, n_others, n_others)]
        areas[draw], rates[draw] = ordered.statistics(members, others)
    return Bootstrap(areas, rates)


def delong(scores: Floats, member: NDArray[np.bool_]) -> Interval:
    """AUC with DeLong's 95 % interval, taken on the log-odds of the AUC so that it stays within 0..1.

    Source: DeLong et al. 1988; ranks after Sun and Xu, Fast Implementation of DeLong's Algorithm, 2014.
    """
    members, others = int(member.sum()), int((~member).sum())
    if min(members, others) < 2:  # a single score has no variance to estimate
        return Interval(value=float(exact_roc(scores, member).auc), low=0.0, high=1.0)
    ranks = rankdata(scores)
    above_others = (ranks[member] - rankdata(scores[member])) / others
    below_members = 1.0 - (ranks[~member] - rankdata(scores[~member])) / members
    value = float(above_others.mean())
    error = math.sqrt(above_others.var(ddof=1) / members + below_members.var(ddof=1) / others)
    if error == 0.0 or value in (0.0, 1.0):
        return Interval(value=value, low=value, high=value)
    reach = norm.ppf((1 + LEVEL) / 2) * error / (value * (1 - value))
    centre = logit(value)
    return Interval(value=value, low=float(expit(centre - reach)), high=float(expit(centre + reach)))


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """p-values corrected for their number, so that the chance of a single false one stays what it says."""
    if not p_values:
        return {}
    corrected = multipletests(list(p_values.values()), method="holm")[1]
    return dict(zip(p_values, map(float, corrected), strict=True))


@dataclass(frozen=True)
class NoiseFloor:
    """The 95 % bands of AUC and of TPR at each FPR for scores that know nothing, at this many samples."""

    auc: tuple[float, float]
    tpr: dict[float, tuple[float, float]]


def noise_floor(n_members: int, n_others: int, seed: int = 0, draws: int = DRAWS) -> NoiseFloor:
    """Statistics of random rankings: they depend on the numbers of members and non-members alone."""
    random = np.random.default_rng(seed)
    areas, rates = np.empty(draws), np.empty((draws, len(FPRS)))
    member = np.r_[np.ones(n_members, bool), np.zeros(n_others, bool)]
    for draw in range(draws):
        curve = exact_roc(random.permutation(len(member)).astype(float), member)
        areas[draw], rates[draw] = curve.auc, [curve.tpr_at(rate) for rate in FPRS]
    return NoiseFloor(_band(areas), {rate: _band(rates[:, i]) for i, rate in enumerate(FPRS)})


def interval(value: float, draws: Floats) -> Interval:
    """Percentile interval of bootstrap draws around the value on the whole sample."""
    low, high = _band(draws)
    return Interval(value=value, low=min(low, value), high=max(high, value))


def _band(draws: Floats) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
