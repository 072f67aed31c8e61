"""Whether a body of work was trained on: a test over a set of samples, where single ones cannot be told."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy.stats import ttest_ind
from sklearn.model_selection import train_test_split

from raymia.errors import RaymiaError
from raymia.evaluation.combined import STRENGTH
from raymia.evaluation.crossfit import linear_model
from raymia.evaluation.roc import Floats

MINIMUM = 20
"""Samples that a set needs: half of them to fit, half to test."""
NULL_DRAWS = 200
SIZE_DRAWS = 100
SIGNIFICANT = 0.05


class SizePoint(BaseModel):
    """The test on random subsets of one size."""

    n: int
    """Samples of each set that are tested; as many again are used to fit."""
    median_p: float
    significant: float
    """Share of subsets with p below 0.05."""


class SetTest(BaseModel):
    """Suspect set against control set."""

    p: float
    """One-sided: the chance of so large a difference if the suspect samples were like the control's."""
    n_suspect: int
    n_control: int
    signals: int
    by_size: list[SizePoint]
    false_positives: float | None
    """Share of p below 0.05 with one half of the control as suspect and the other as control: 0.05 if all is well."""


def set_test(suspect: Floats, control: Floats, seed: int = 0) -> SetTest:
    """Fit a direction on half of both sets, and compare the other halves along it by a one-sided Welch test.

    The halves that are compared had no part in the fit, so that under the null hypothesis p is uniform.
    After the data set inference of Dubinski et al., CDI, arXiv 2411.12858.

    Args:
        suspect, control: (n, signals) scores, higher meaning member.

    Raises:
        RaymiaError: a set is too small.
    """
    for name, rows in (("suspect", suspect), ("control", control)):
        if len(rows) < MINIMUM:
            raise RaymiaError(f"the {name} set has {len(rows)} scored samples; expected at least {MINIMUM}")
    largest = min(len(suspect), len(control))
    sizes = [size for size in (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000) if 2 * size <= largest]
    random = np.random.default_rng(seed)
    return SetTest(
        p=welch(suspect, control, seed),
        n_suspect=len(suspect),
        n_control=len(control),
        signals=suspect.shape[1],
        by_size=[_at_size(suspect, control, size, random) for size in sizes],
        false_positives=_false_positives(control, random) if len(control) >= 2 * MINIMUM else None,
    )


def welch(suspect: Floats, control: Floats, seed: int) -> float:
    """p of one split into halves to fit on and to compare."""
    rows, suspected = np.vstack([suspect, control]), np.r_[np.ones(len(suspect), bool), np.zeros(len(control), bool)]
    fit, test = train_test_split(np.arange(len(rows)), test_size=0.5, stratify=suspected, random_state=seed)
    scores: NDArray[np.float64] = linear_model(STRENGTH).fit(rows[fit], suspected[fit]).decision_function(rows[test])
    ours, theirs = scores[suspected[test]], scores[~suspected[test]]
    p = float(ttest_ind(ours, theirs, equal_var=False, alternative="greater").pvalue)
    return 1.0 if np.isnan(p) else p  # scores that are all the same show nothing


def _at_size(suspect: Floats, control: Floats, size: int, random: np.random.Generator) -> SizePoint:
    p_values = []
    for draw in range(SIZE_DRAWS):
        ours, theirs = (rows[random.choice(len(rows), 2 * size, replace=False)] for rows in (suspect, control))
        p_values.append(welch(ours, theirs, draw))
    return SizePoint(n=size, median_p=float(np.median(p_values)), significant=float(np.mean(np.array(p_values) < SIGNIFICANT)))


def _false_positives(control: Floats, random: np.random.Generator) -> float:
    p_values = []
    for draw in range(NULL_DRAWS):
        order = random.permutation(len(control))
        half = len(control) // 2
        p_values.append(welch(control[order[:half]], control[order[half:]], draw))
    return float(np.mean(np.array(p_values) < SIGNIFICANT))
