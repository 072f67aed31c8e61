"""Uncertainty: percentile and DeLong's intervals, corrections for many tries, and the noise floor."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy.special import expit, logit
from scipy.stats import betabinom, binomtest, norm, rankdata
from statsmodels.stats.multitest import multipletests

from raymia.evaluation.roc import FPRS, Floats, exact_roc

LEVEL = 0.95
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


class Interval(BaseModel):
    """A value with its 95 % interval, on 0..1; a difference of two is on -1..1."""

    value: float
    low: float
    high: float


def proportion(hits: NDArray[np.bool_]) -> Interval:
    """Share of hits with its exact (Clopper-Pearson) 95 % interval."""
    count = int(hits.sum())
    exact = binomtest(count, len(hits)).proportion_ci(confidence_level=LEVEL, method="exact")
    return Interval(value=count / len(hits), low=float(exact.low), high=float(exact.high))


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
    reach = norm.ppf(TAILS[1]) * error / (value * (1 - value))
    centre = logit(value)
    return Interval(value=value, low=float(expit(centre - reach)), high=float(expit(centre + reach)))


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """p-values corrected for their number, so that the chance of a single false one stays what it says."""
    if not p_values:
        return {}
    corrected = multipletests(list(p_values.values()), method="holm")[1]
    return dict(zip(p_values, map(float, corrected), strict=True))


class NoiseFloor(BaseModel):
    """95 % bands for scores that know nothing, at this number of samples."""

    auc: tuple[float, float]
    tpr_at_fpr: dict[str, tuple[float, float]]
    """By the FPR: ``0.01``."""


def chance_spread(n_members: int, n_others: int) -> float:
    """Standard deviation of the AUC of random rankings: that of Mann-Whitney's U over the number of pairs."""
    return math.sqrt((n_members + n_others + 1) / (12.0 * n_members * n_others))


def noise_floor(n_members: int, n_others: int) -> NoiseFloor:
    """Where random rankings land, by their distributions: no draws, so the same at any size.

    The AUC is Mann-Whitney's U over the number of pairs: mean 1/2, variance (n + m + 1) / (12 n m), close to normal. The
    members above all but the k highest non-members, k those that the FPR allows, are beta-binomial.
    """
    low, high = np.clip(norm.ppf(TAILS, 0.5, chance_spread(n_members, n_others)), 0.0, 1.0)
    tpr_at_fpr = {}
    for rate in FPRS:
        allowed = math.floor(rate * n_others + 1e-9)
        bottom, top = betabinom.ppf(TAILS, n_members, allowed + 1, n_others - allowed) / n_members
        tpr_at_fpr[f"{rate:g}"] = (float(bottom), float(top))
    return NoiseFloor(auc=(float(low), float(high)), tpr_at_fpr=tpr_at_fpr)


def interval(value: float, draws: Floats) -> Interval:
    """Percentile interval of bootstrap draws around the value on the whole sample."""
    low, high = np.quantile(draws, TAILS)
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value))


def shown(value: Interval | None, sign: str = "") -> str:
    """``0.856 [0.832, 0.877]``, or a dash.

    Args:
        sign: ``+`` for differences.
    """
    return "-" if value is None else f"{value.value:{sign}.3f} [{value.low:{sign}.3f}, {value.high:{sign}.3f}]"
