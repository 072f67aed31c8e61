"""The blind baseline that sees captions."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from raymia.evaluation.baselines.base import Baseline
from raymia.evaluation.crossfit import Groups, out_of_fold
from raymia.evaluation.roc import Floats

MIN_DF = 3
"""Captions that an n-gram must stand in."""


class CaptionBaseline(Baseline):
    """TF-IDF of the caption's character 1- to 5-grams, case kept, and logistic regression.

    Source: Das et al., Blind Baselines Beat Membership Inference Attacks for Foundation Models, arXiv 2406.16201.
    """

    name: ClassVar[str] = "caption"
    title: ClassVar[str] = "logistic regression on character n-grams of the caption"
    columns: ClassVar[tuple[str, ...]] = ("caption",)
    order: ClassVar[int] = 20

    def usable(self, table: pd.DataFrame) -> bool:
        """Where the captions are not all the same."""
        return "caption" in table and table["caption"].nunique() > 1

    def scores(self, table: pd.DataFrame, member: NDArray[np.bool_], seed: int, groups: Groups) -> Floats:
        """See `Baseline.scores`; a missing caption is read as an empty one, and captions with nothing in common give zeros.

        Counts are taken once for all folds; which n-grams are kept, their weights and the regression are fitted in each.
        """
        counter = CountVectorizer(analyzer="char", ngram_range=(1, 5), lowercase=False, min_df=MIN_DF, dtype=np.float32)
        try:
            counts = counter.fit_transform(table["caption"].fillna("").to_numpy(dtype=object))
        except ValueError as error:
            # Captions that share no n-gram three times leave nothing to learn from: a constant, which ranks nothing.
            if "no terms remain" not in str(error) and "empty vocabulary" not in str(error):
                raise
            return np.zeros(len(member))
        # Dual coordinate descent: on many weak n-grams the default solver's gradient is small from the start, and it stops
        # there.
        regression = LogisticRegression(C=2.0, solver="liblinear", dual=True, max_iter=1000, random_state=0)
        model = make_pipeline(_Frequent(), TfidfTransformer(sublinear_tf=True), regression)
        return out_of_fold(model, counts, member, seed, groups)


class _Frequent(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Keeps the n-grams that stand in at least `min_df` of the captions it is fitted on."""

    def __init__(self, min_df: int = MIN_DF) -> None:
        self.min_df = min_df

    def fit(self, counts: csr_matrix, _: object = None) -> _Frequent:
        self.kept_ = np.flatnonzero(np.bincount(counts.indices, minlength=counts.shape[1]) >= self.min_df)
        if not len(self.kept_):
            self.kept_ = np.arange(min(1, counts.shape[1]))
        return self

    def transform(self, counts: csr_matrix) -> csr_matrix:
        return counts[:, self.kept_]
