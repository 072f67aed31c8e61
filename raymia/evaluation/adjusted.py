"""A signal less what an unseen image that looks the same would score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from raymia.evaluation.appearance import appearance, lacking, tells_looks
from raymia.evaluation.combined import STRENGTH
from raymia.evaluation.crossfit import folds, one_thread, out_of_fold, sample
from raymia.evaluation.labelled import LabelledSamples
from raymia.evaluation.roc import Floats
from raymia.evaluation.signals import ADJUSTED, UNTRIED

MINIMUM = 50
"""Non-members, or clusters of them, that a fit needs."""
STRENGTHS = tuple(np.geomspace(0.1, 1e4, 11))
"""Of the ridge, of which leave-one-out chooses in every fit."""
COMPONENTS = 16
"""Principal components of the embedding, and at most one for ten samples."""
TAIL = 0.005
"""Share of the fitted scores at either end that are moved to where the rest ends: one outlier bends no plane."""


@dataclass(frozen=True)
class AdjustedScores:
    """Adjusted scores, higher meaning member.

    Attributes:
        labelled: (n,) of the labelled samples by name, ``adjusted.loss``; no fit saw the sample or a twin of it.
        others: (m,) of further samples, by a fit to all non-members.
        appearance: (n,) scores, out of fold, of a classifier that tells members by how they look; none without adjusted scores.
            Where the regression is wrong about images unlike the non-members, what is left in an adjusted score says no more
            than this.
    """

    labelled: Mapping[str, Floats] = field(default_factory=dict)
    others: Mapping[str, Floats] = field(default_factory=dict)
    appearance: Floats | None = None


def adjusted_scores(labelled: LabelledSamples, others: pd.DataFrame | None = None) -> AdjustedScores:
    """Adjust the primary signal of each attack for how images look.

    A ridge regression of the signal on `appearance` is fitted to the non-members of four folds, and what it says is taken off
    the scores of the fifth, of members and non-members alike. So a member's label moves no score.

    Args:
        others: a table of m further samples, such as those of unknown membership.

    Returns:
        None of either where nothing tells how the images look, or non-members are too few.
    """
    names = adjustable(labelled)
    if not names or not labelled.can_fold or _few(labelled) is not None:
        return AdjustedScores()
    n = len(labelled.member)
    rows = labelled.rows if others is None or others.empty else pd.concat([labelled.rows, others], ignore_index=True)
    looks = appearance(rows)
    if looks is None:
        return AdjustedScores()
    columns, facts = looks.columns, looks.facts.shape[1]
    scores = labelled.features(names)
    random = np.random.default_rng(labelled.seed)

    def expected(fitted: NDArray[np.int64], asked: Floats) -> Floats:
        unseen = sample(fitted[~labelled.member[fitted]], random)
        return expectation(columns[unseen], scores[unseen], facts, asked)

    own, further = np.empty_like(scores), np.empty((0, len(names)))
    with one_thread(n):
        for fitted, asked in folds(labelled.member, labelled.seed, labelled.groups):
            own[asked] = scores[asked] - expected(fitted, columns[asked])
        if others is not None and not others.empty:
            further = others[names].to_numpy(float) - expected(np.arange(n), columns[n:])
    titles = [f"{ADJUSTED}{name}" for name in names]
    return AdjustedScores(
        labelled=dict(zip(titles, own.T, strict=True)),
        others=dict(zip(titles, further.T, strict=True)),
        appearance=_told_apart(labelled, columns[:n], facts),
    )


def adjustable(labelled: LabelledSamples) -> list[str]:
    """Names of the signals by which attacks are judged."""
    return [name for name, signal in labelled.signals.items() if signal.primary and signal.access not in UNTRIED]


def adjusted_warnings(labelled: LabelledSamples, table: pd.DataFrame) -> list[str]:
    """Of adjusted scores that are left out, or made without something that is known of most images.

    Args:
        table: all samples with scores, those of unknown membership too.
    """
    if not adjustable(labelled) or not tells_looks(table):
        return []
    few = _few(labelled)
    if few is not None:
        return [f"Adjusted scores are left out: {few}."]
    gaps = lacking(table).items()
    return [f"Adjusted scores go without {name}, which is empty for {count} samples." for name, count in gaps]


def _few(labelled: LabelledSamples) -> str | None:
    """What there is too little of to fit to, in words; none where there is enough."""
    groups, unseen = labelled.groups, ~labelled.member
    count = int(unseen.sum()) if groups is None else len(np.unique(groups[unseen]))
    if count >= MINIMUM:
        return None
    return f"{count} {'non-members' if groups is None else 'clusters of non-members'}; expected at least {MINIMUM}"


def expectation(columns: Floats, scores: Floats, facts: int, asked: Floats) -> Floats:
    """What samples would score by a regression fitted to others.

    Args:
        columns: (n, facts + width) how the fitted samples look.
        scores: (n, signals) what they score.
        facts: how many of the columns stand before the embedding.
        asked: (m, facts + width) how the samples in question look.

    Returns:
        (m, signals).
    """
    low, high = np.quantile(scores, (TAIL, 1 - TAIL), axis=0)
    model = make_pipeline(_prepared(facts, columns.shape), RidgeCV(STRENGTHS, alpha_per_target=True))
    expected = model.fit(columns, np.clip(scores, low, high)).predict(asked)
    return np.asarray(expected, float).reshape(len(asked), scores.shape[1])


def _told_apart(labelled: LabelledSamples, columns: Floats, facts: int) -> Floats:
    classifier = make_pipeline(_prepared(facts, columns.shape), LogisticRegression(C=STRENGTH, max_iter=2000))
    return out_of_fold(classifier, columns, labelled.member, labelled.seed, labelled.groups)


def _prepared(facts: int, shape: Sequence[int]) -> BaseEstimator:
    """Standardised facts, and principal components of the embedding."""
    rows, width = shape
    components = min(COMPONENTS, rows // 10, width - facts)
    parts = [("facts", StandardScaler(), slice(0, facts))]
    if components:
        parts.append(("embedding", PCA(components, whiten=True, random_state=0), slice(facts, width)))
    return ColumnTransformer(parts)
