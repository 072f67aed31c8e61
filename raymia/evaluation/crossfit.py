"""Scores of classifiers for samples that they were not fitted on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from raymia.evaluation.roc import Floats

FOLDS = 5
MAX_FIT = 200_000
"""Samples that a model is fitted on at most: a random part of the other folds where there are more."""

SMALL_FIT = 20_000
"""Samples up to which a fit runs in one thread: several wait for each other longer than one computes."""

Groups = NDArray[np.object_] | NDArray[np.int64] | None
"""Cluster of near-duplicates that each sample belongs to: twins never stand on both sides of a fold."""


def can_fold(member: NDArray[np.bool_]) -> bool:
    """Whether both classes are large enough for the folds."""
    return bool(min(member.sum(), (~member).sum()) >= FOLDS)


def cluster_groups(table: pd.DataFrame) -> NDArray[np.int64] | None:
    """Number of each row's `cluster` of near-duplicates, a row without one being its own; none where no row has one."""
    if "cluster" not in table or table["cluster"].isna().all():
        return None
    alone = pd.Series([f"row {i}" for i in range(len(table))], index=table.index)
    codes, _ = pd.factorize(table["cluster"].astype("string").fillna(alone))
    return np.asarray(codes, np.int64)


def folds(member: NDArray[np.bool_], seed: int, groups: Groups = None) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Indices to fit on and to score, for each of five stratified folds; the samples of a group stand in one fold."""
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    yield from splitter(FOLDS, shuffle=True, random_state=seed).split(member, member, groups)


def sample(fit: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """The indices to fit on, or a random part where there are more than `MAX_FIT`."""
    return fit if len(fit) <= MAX_FIT else np.sort(random.choice(fit, MAX_FIT, replace=False))


def one_thread(samples: int) -> AbstractContextManager[object]:
    """Fits within it run in one thread of linear algebra, where the samples are few enough."""
    return threadpool_limits(1) if samples <= SMALL_FIT else nullcontext()


def out_of_fold(
    model: BaseEstimator,
    features: NDArray[np.object_] | Floats,
    member: NDArray[np.bool_],
    seed: int,
    groups: Groups = None,
    method: Literal["decision_function", "predict_proba"] = "decision_function",
) -> Floats:
    """Score of each sample by the model that was fitted on the other four of five stratified folds.

    Args:
        features: (n, ...) rows.
        groups: keeps the samples of a group in one fold.
        method: ``decision_function``, or ``predict_proba`` for the probability of being a member.
    """
    random = np.random.default_rng(seed)
    parts = [(sample(fit, random), test) for fit, test in folds(member, seed, groups)]
    with one_thread(len(member)):
        predicted = np.asarray(cross_val_predict(model, features, member, cv=parts, method=method), float)
    return predicted if predicted.ndim == 1 else predicted[:, 1]


def linear_model(strength: float = 1.0) -> BaseEstimator:
    """Logistic regression on standardised features.

    Args:
        strength: inverse of the L2 regularisation (scikit-learn's C).
    """
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
