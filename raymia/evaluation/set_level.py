"""Whether a body of work was trained on: two tests over a set of samples, where single ones cannot be told.

The sizes of the sets fix which of the two counts, before any score is looked at. Works that belong together are one unit.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy.stats import ttest_ind
from sklearn.model_selection import train_test_split

from raymia.errors import RaymiaError
from raymia.evaluation.combined import STRENGTH
from raymia.evaluation.crossfit import Groups, linear_model, one_thread
from raymia.evaluation.roc import Floats

MINIMUM = 10
"""Units that a set needs."""
ENOUGH_TO_FIT = 100
"""Units of each set from which on the fitted test counts."""
SPLITS = 50
NULL_DRAWS = 100
SIZE_DRAWS = 200
SIZES = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
SIGNIFICANT = 0.05

Counted = Literal["mean", "splits"]
"""The ``mean`` of the standardised primary signals, or the median over ``splits`` of a direction fitted to all signals."""


class SizePoint(BaseModel):
    """The test of the mean on random subsets of one size."""

    n: int
    """Units of each set."""
    median_p: float
    significant: float
    """Share of subsets with p below 0.05."""


class SetTest(BaseModel):
    """Suspect set against control set."""

    p: float
    """One-sided, of the test that counts: the chance of so large a difference if suspect units were like the control's."""
    counted: Counted
    """Which test counts: ``splits`` where both sets have at least 100 units, else ``mean``."""
    p_mean: float
    """Of the mean of the primary signals, each standardised by the control; nothing is fitted."""
    p_splits: float | None
    """Twice the median p over 50 random halves to fit a direction on and test it; none below 20 units of a set."""
    n_suspect: int
    n_control: int
    units_suspect: int
    """Clusters of works that belong together; a sample that belongs to none is its own."""
    units_control: int
    signals: int
    """That a direction is fitted to."""
    primary: int
    """That the mean is of."""
    by_size: list[SizePoint]
    false_positives: float | None
    """Share of p below 0.05 with one random half of the control's units as suspect and the other as control, by the test that
    counts, a single split for ``splits``: 0.05 or less if all is well. None below 20 units."""


def set_test(
    suspect: Floats,
    control: Floats,
    primary: NDArray[np.bool_] | None = None,
    groups: tuple[Groups, Groups] = (None, None),
    seed: int = 0,
) -> SetTest:
    """Test whether the suspect samples score above the control's, as a set.

    The mean: each primary signal, whose sign is declared, is standardised by the control, their mean is taken, and the sets are
    compared by a one-sided Welch test. The splits: a direction is fitted to half of both sets and the other halves are compared
    along it by the same test, for 50 random splits; twice the median p is a valid p (Meinshausen, Meier and Buehlmann, p-Values
    for High-Dimensional Regression, 2009). Adding up halves or folds that were fitted on each other is not. After the data set
    inference of Dubinski et al., CDI, arXiv 2411.12858.

    Args:
        suspect, control: (n, signals) scores, higher meaning member.
        primary: (signals,) which signals the mean is of; none for all.
        groups: cluster of each suspect and each control sample that belong together; a cluster counts once, with its mean.
        seed: of splits and draws.

    Raises:
        RaymiaError: a set has too few units.
    """
    ours, theirs = (units(rows, own) for rows, own in zip((suspect, control), groups, strict=True))
    for name, rows in (("suspect", ours), ("control", theirs)):
        if len(rows) < MINIMUM:
            raise RaymiaError(f"the {name} set has {len(rows)} scored samples or clusters; expected at least {MINIMUM}")
    chosen = np.ones(ours.shape[1], bool) if primary is None or not primary.any() else primary
    smaller = min(len(ours), len(theirs))
    counted: Counted = "splits" if smaller >= ENOUGH_TO_FIT else "mean"
    random = np.random.default_rng(seed)
    p_mean = mean_p(ours[:, chosen], theirs[:, chosen])
    p_splits = splits_p(ours, theirs, seed) if smaller >= 2 * MINIMUM else None
    return SetTest(
        p=p_mean if counted == "mean" or p_splits is None else p_splits,
        counted=counted,
        p_mean=p_mean,
        p_splits=p_splits,
        n_suspect=len(suspect),
        n_control=len(control),
        units_suspect=len(ours),
        units_control=len(theirs),
        signals=ours.shape[1],
        primary=int(chosen.sum()),
        by_size=[_at_size(ours[:, chosen], theirs[:, chosen], size, random) for size in SIZES if size <= smaller],
        false_positives=_false_positives(theirs, chosen, counted, random) if len(theirs) >= 2 * MINIMUM else None,
    )


def mean_p(suspect: Floats, control: Floats) -> float:
    """p of the mean of signals that are standardised by the control, by a one-sided Welch test.

    Args:
        suspect, control: (n, signals) scores.
    """
    return _welch(*standing(suspect, control))


def standing(suspect: Floats, control: Floats) -> tuple[Floats, Floats]:
    """(n,) means of signals that are standardised by the control, of the suspect samples and of the control's.

    A signal that says the same of every control sample has no scale to be read on, and is left out; where all do, the means
    are 0.

    Args:
        suspect, control: (n, signals) scores.
    """
    centre, spread = control.mean(axis=0), control.std(axis=0, ddof=1)
    told = spread > 0
    if not told.any():
        return np.zeros(len(suspect)), np.zeros(len(control))
    ours, theirs = (((rows - centre)[:, told] / spread[told]).mean(axis=1) for rows in (suspect, control))
    return ours, theirs


def splits_p(suspect: Floats, control: Floats, seed: int, splits: int = SPLITS) -> float:
    """Twice the median p over random splits into halves to fit a direction on and to compare.

    Args:
        suspect, control: (n, signals) scores.
    """
    seeds = np.random.default_rng(seed).integers(2**31, size=splits)
    with one_thread(len(suspect) + len(control)):
        p_values = [split_p(suspect, control, split) for split in seeds]
    return min(1.0, 2 * float(np.median(p_values)))


def split_p(suspect: Floats, control: Floats, seed: int) -> float:
    """p of one split: the halves that are compared had no part in the fit, so that under the null hypothesis p is uniform.

    Args:
        suspect, control: (n, signals) scores.
    """
    rows, suspected = np.vstack([suspect, control]), np.arange(len(suspect) + len(control)) < len(suspect)
    fit, test = train_test_split(np.arange(len(rows)), test_size=0.5, stratify=suspected, random_state=int(seed))
    scores: NDArray[np.float64] = linear_model(STRENGTH).fit(rows[fit], suspected[fit]).decision_function(rows[test])
    return _welch(scores[suspected[test]], scores[~suspected[test]])


def _welch(ours: Floats, theirs: Floats) -> float:
    p = float(ttest_ind(ours, theirs, equal_var=False, alternative="greater").pvalue)
    return 1.0 if np.isnan(p) else p  # scores that are all the same show nothing


def units(rows: Floats, groups: Groups) -> Floats:
    """(clusters, signals) means of clusters; the (n, signals) rows themselves where nothing belongs together."""
    return rows if groups is None else pd.DataFrame(rows).groupby(groups, sort=False).mean().to_numpy(float)


def _at_size(suspect: Floats, control: Floats, size: int, random: np.random.Generator) -> SizePoint:
    drawn = ([rows[random.choice(len(rows), size, replace=False)] for rows in (suspect, control)] for _ in range(SIZE_DRAWS))
    p_values = np.array([mean_p(ours, theirs) for ours, theirs in drawn])
    return SizePoint(n=size, median_p=float(np.median(p_values)), significant=float((p_values < SIGNIFICANT).mean()))


def _false_positives(control: Floats, primary: NDArray[np.bool_], counted: Counted, random: np.random.Generator) -> float:
    """Share of random halves of the control that the test tells apart."""
    p_values = []
    with one_thread(len(control)):
        for draw in range(NULL_DRAWS):
            order = random.permutation(len(control))
            ours, theirs = control[order[: len(control) // 2]], control[order[len(control) // 2 :]]
            p_values.append(mean_p(ours[:, primary], theirs[:, primary]) if counted == "mean" else split_p(ours, theirs, draw))
    return float(np.mean(np.array(p_values) < SIGNIFICANT))
