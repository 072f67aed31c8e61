"""Uncertainty: stratified bootstrap intervals, DeLong's interval, corrections for many tries, and the noise floor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy.special import expit, logit
from scipy.stats import betabinom, norm, rankdata
from statsmodels.stats.multitest import multipletests

from raymia.evaluation.roc import FPRS, Floats, exact_roc

DRAWS = 1000
LEVEL = 0.95
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
COLUMNS_AT_ONCE = 16
CHUNK = 2**23
"""Resampled samples that are held at once."""
GRID = np.unique(np.r_[np.geomspace(1e-4, 1.0, 41), np.linspace(0.0, 1.0, 21)])
"""False-positive rates at which the ROC curve gets a band."""


class Interval(BaseModel):
    """A value with its 95 % interval, on 0..1."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """Statistics of one score in every draw."""

    auc: Floats
    """(draws,)"""
    tpr: Floats
    """(draws, len(FPRS)): TPR at each FPR of `raymia.evaluation.roc.FPRS`."""
    curve: Floats
    """(draws, len(GRID)): TPR at each FPR of `GRID`."""


class _Ordered:
    """One score as ranks: what is left of it once resampling only changes how often each sample counts.

    A threshold at a member's score accuses it, the members above it, and the non-members at or above it. So for each
    member, best first, the number of non-members above it and at or above it say all.
    """

    def __init__(self, scores: Floats, member: NDArray[np.bool_]) -> None:
        members, others = scores[member], scores[~member]
        self.member_order = np.argsort(-members, kind="stable")
        self.other_order = np.argsort(-others, kind="stable")
        best_first, highest_first = -members[self.member_order], -others[self.other_order]
        self.at_or_above = np.searchsorted(highest_first, best_first, side="right")
        above = np.searchsorted(highest_first, best_first, side="left")
        self.above = self.at_or_above if np.array_equal(above, self.at_or_above) else above

    def statistics(self, members: NDArray[np.uint8], others: NDArray[np.uint8]) -> tuple[Floats, Floats, Floats]:
        """AUC, TPR at `FPRS` and TPR at `GRID` of resamples; (draws, n) counts of how often each sample was drawn."""
        n_members, n_others = members.shape[1], others.shape[1]
        draws = len(members)
        alarms = np.zeros((draws, n_others + 1), np.int32)
        np.cumsum(others[:, self.other_order], axis=1, out=alarms[:, 1:])
        weights = members[:, self.member_order]
        hits = np.zeros((draws, n_members + 1), np.int32)
        np.cumsum(weights, axis=1, out=hits[:, 1:])
        at_or_above = alarms[:, self.at_or_above]
        above = at_or_above if self.above is self.at_or_above else alarms[:, self.above]
        lost = np.einsum("ij,ij->i", weights, above + at_or_above, dtype=np.float64)
        areas = 1.0 - lost / (2.0 * n_members * n_others)
        rates = np.r_[FPRS, GRID]
        # A share of alarms is a count over n; comparing counts keeps 3/10 <= .3 true in floating point.
        allowed = np.floor(rates * n_others + 1e-9)
        found = np.empty((draws, len(rates)))
        for draw in range(draws):
            found[draw] = hits[draw, np.searchsorted(at_or_above[draw], allowed, side="right")]
        found /= n_members
        return areas, found[:, : len(FPRS)], found[:, len(FPRS) :]


def resamples(
    n_members: int, n_others: int, seed: int, draws: int = DRAWS
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """How often each member and each non-member is drawn, with replacement, in parts of some draws at a time.

    Yields:
        (part, n_members) and (part, n_others) counts; the rows of all parts together are `draws` many.
    """
    random = np.random.default_rng(seed)
    part = max(1, min(draws, CHUNK // (n_members + n_others)))
    for start in range(0, draws, part):
        rows = min(part, draws - start)
        yield _counts(random, rows, n_members), _counts(random, rows, n_others)


def _counts(random: np.random.Generator, rows: int, n: int) -> NDArray[np.uint8]:
    drawn = random.integers(0, n, (rows, n), dtype=np.int32) + (np.arange(rows, dtype=np.int32) * n)[:, None]
    # 256 draws of one sample out of n have a chance below 1e-500 for any n where they are possible at all.
    return np.bincount(drawn.ravel(), minlength=rows * n).astype(np.uint8).reshape(rows, n)


def bootstrap(
    columns: Mapping[str, Floats], member: NDArray[np.bool_], seed: int = 0, draws: int = DRAWS
) -> dict[str, Bootstrap]:
    """Resample members and non-members separately, with replacement; the same resamples for every column.

    So the difference of two columns' statistics, draw by draw, is their paired bootstrap.

    Args:
        columns: scores by name, each (n,), higher meaning member.
        member: (n,) labels with both classes.
    """
    names = list(columns)
    found: dict[str, Bootstrap] = {}
    # The order of a million scores takes 30 MB: so many columns at a time, and the same resamples for each part.
    for first in range(0, len(names), COLUMNS_AT_ONCE):
        ordered = {name: _Ordered(columns[name], member) for name in names[first : first + COLUMNS_AT_ONCE]}
        parts: dict[str, list[tuple[Floats, Floats, Floats]]] = {name: [] for name in ordered}
        for members, others in resamples(int(member.sum()), int((~member).sum()), seed, draws):
            for name, order in ordered.items():
                parts[name].append(order.statistics(members, others))
        found |= {name: Bootstrap(*map(np.concatenate, zip(*part, strict=True))) for name, part in parts.items()}
    return found


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


@dataclass(frozen=True)
class NoiseFloor:
    """The 95 % bands of AUC and of TPR at each FPR for scores that know nothing, at this many samples."""

    auc: tuple[float, float]
    tpr: dict[float, tuple[float, float]]


def chance_spread(n_members: int, n_others: int) -> float:
    """Standard deviation of the AUC of random rankings: that of Mann-Whitney's U over the number of pairs."""
    return math.sqrt((n_members + n_others + 1) / (12.0 * n_members * n_others))


def noise_floor(n_members: int, n_others: int) -> NoiseFloor:
    """Where random rankings land, by their distributions: no draws, so the same at any size.

    The AUC is Mann-Whitney's U over the number of pairs: mean 1/2, variance (n + m + 1) / (12 n m), close to normal. The
    members above all but the k highest non-members, k those that the FPR allows, are beta-binomial.
    """
    low, high = np.clip(norm.ppf(TAILS, 0.5, chance_spread(n_members, n_others)), 0.0, 1.0)
    tpr = {}
    for rate in FPRS:
        allowed = math.floor(rate * n_others + 1e-9)
        bottom, top = betabinom.ppf(TAILS, n_members, allowed + 1, n_others - allowed) / n_members
        tpr[rate] = (float(bottom), float(top))
    return NoiseFloor((float(low), float(high)), tpr)


def interval(value: float, draws: Floats) -> Interval:
    """Percentile interval of bootstrap draws around the value on the whole sample."""
    low, high = np.quantile(draws, TAILS)
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value))
