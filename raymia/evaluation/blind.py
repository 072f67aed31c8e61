"""Blind baselines: classifiers that never see the attacked model, to show what the data set alone gives away."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from raymia.evaluation.roc import Floats

FOLDS = 5
STATISTICS = ("width", "height", "aspect", "bytes_per_pixel", "entropy", "colourfulness", "edge_density")


def blind_scores(table: pd.DataFrame, member: NDArray[np.bool_], seed: int = 0) -> dict[str, Floats]:
    """Out-of-fold membership scores of each baseline, by name; none where the classes are too small for folds.

    ``caption``: character 1-5-gram TF-IDF and logistic regression. ``statistics``: logistic regression on size, aspect,
    bytes per pixel, entropy, colourfulness and edge density. After Das et al., Blind Baselines Beat Membership Inference
    Attacks for Foundation Models, arXiv 2406.16201.

    Args:
        table: columns of a score table: caption, width, height, jpeg_bytes and the image statistics.
        member: label of each row.
    """
    if min(member.sum(), (~member).sum()) < FOLDS:
        return {}
    captions = table["caption"].to_numpy(dtype=object)
    scores = {"statistics": _out_of_fold(_statistics_model(), statistics(table), member, seed)}
    if len(set(captions)) > 1:
        scores["caption"] = _out_of_fold(_caption_model(), captions, member, seed)
    return scores


def statistics(table: pd.DataFrame) -> Floats:
    """(n, 7) features of `STATISTICS`."""
    area = table["width"] * table["height"]
    features = {"aspect": table["width"] / table["height"], "bytes_per_pixel": table["jpeg_bytes"] / area}
    return table.assign(**features)[list(STATISTICS)].to_numpy(dtype=float)


def _caption_model() -> BaseEstimator:
    grams = TfidfVectorizer(analyzer="char", ngram_range=(1, 5), lowercase=False, min_df=3, sublinear_tf=True)
    return make_pipeline(grams, LogisticRegression(C=2.0, max_iter=1000))


def _statistics_model() -> BaseEstimator:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


def _out_of_fold(model: BaseEstimator, features: NDArray[np.object_] | Floats, member: NDArray[np.bool_], seed: int) -> Floats:
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    try:
        decisions = cross_val_predict(model, features, member, cv=folds, method="decision_function")
    except ValueError as error:
        # Captions that share no n-gram three times leave nothing to learn from: a constant, which ranks nothing.
        if "no terms remain" not in str(error) and "empty vocabulary" not in str(error):
            raise
        return np.zeros(len(member))
    return np.asarray(decisions, float)
