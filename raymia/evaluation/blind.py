"""Blind baselines: classifiers that never see the attacked model, to show what the data set alone gives away."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from raymia.evaluation.crossfit import Groups, can_fold, linear_model, out_of_fold
from raymia.evaluation.roc import Floats

SHUFFLES = 20
MIN_DF = 3
"""Captions that an n-gram must stand in."""
SOURCES = {"width", "height", "jpeg_bytes", "entropy", "colourfulness", "edge_density"}
"""Columns of a score table that the statistics are computed from."""
STATISTICS = ("width", "height", "aspect", "bytes_per_pixel", "entropy", "colourfulness", "edge_density")


class FrechetShift(BaseModel):
    """How far apart the splits' image embeddings lie."""

    distance: float
    of_random_halves: float
    """The largest of twenty distances between random halves of the same samples: what chance gives."""


def blind_scores(table: pd.DataFrame, member: NDArray[np.bool_], seed: int = 0, groups: Groups = None) -> dict[str, Floats]:
    """Out-of-fold membership scores of each baseline, by name; none where the classes are too small for folds.

    ``caption``: character 1-5-gram TF-IDF and logistic regression. ``statistics``: logistic regression on size, aspect,
    bytes per pixel, entropy, colourfulness and edge density. ``embedding``: logistic regression on CLIP image embeddings.
    After Das et al., Blind Baselines Beat Membership Inference Attacks for Foundation Models, arXiv 2406.16201.

    Args:
        table: of caption; width, height, jpeg_bytes and the image statistics; and clip_embedding, what there is: a baseline
            whose columns are missing or empty is left out.
        member: label of each row.
        groups: clusters of near-duplicates, kept on one side of every fold.
    """
    scores: dict[str, Floats] = {}
    if not can_fold(member):
        return scores
    if set(table) >= SOURCES:
        scores["statistics"] = out_of_fold(linear_model(), statistics(table), member, seed, groups)
    if table["caption"].nunique() > 1:
        scores["caption"] = _caption_scores(table["caption"].to_numpy(dtype=object), member, seed, groups)
    vectors = embeddings(table)
    if vectors is not None:
        scores["embedding"] = out_of_fold(linear_model(), vectors, member, seed, groups)
    return scores


def embeddings(table: pd.DataFrame, name: str = "clip_embedding") -> Floats | None:
    """(n, width) CLIP embeddings of a score table, by default of the images; none where some row has none."""
    if name not in table or table[name].isna().any():
        return None
    column = table[name]
    if isinstance(column.dtype, pd.ArrowDtype):  # as the ledger gives them: one block of numbers
        numbers = pa.chunked_array(pa.array(column)).combine_chunks().flatten()
        return np.asarray(numbers, np.float64).reshape(len(column), -1)
    return np.array(column.tolist(), dtype=float)


def statistics(table: pd.DataFrame) -> Floats:
    """(n, 7) features of `STATISTICS`."""
    area = table["width"] * table["height"]
    features = {"aspect": table["width"] / table["height"], "bytes_per_pixel": table["jpeg_bytes"] / area}
    return table.assign(**features)[list(STATISTICS)].to_numpy(dtype=float)


def frechet_distance(one: Floats, other: Floats) -> float:
    """Squared distance of two normal distributions with the means and covariances of these rows.

    ||m1 - m2||^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), the quantity of Heusel et al., arXiv 1706.08500, over CLIP embeddings.
    """
    covariances = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    # The product of two covariances has real, non-negative eigenvalues, whose roots are those of the matrix root.
    roots = np.sqrt(np.clip(np.linalg.eigvals(covariances[0] @ covariances[1]).real, 0.0, None))
    squared = np.square(one.mean(0) - other.mean(0)).sum()
    return float(squared + np.trace(covariances[0]) + np.trace(covariances[1]) - 2.0 * roots.sum())


def frechet_shift(embeddings: Floats, member: NDArray[np.bool_], seed: int = 0) -> FrechetShift:
    """Fréchet distance between members and non-members, and between random halves of the same sizes."""
    random = np.random.default_rng(seed)
    shuffled = []
    for _ in range(SHUFFLES):
        labels = random.permutation(member)
        shuffled.append(frechet_distance(embeddings[labels], embeddings[~labels]))
    return FrechetShift(distance=frechet_distance(embeddings[member], embeddings[~member]), of_random_halves=max(shuffled))


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


def _caption_scores(captions: NDArray[np.object_], member: NDArray[np.bool_], seed: int, groups: Groups) -> Floats:
    """Counts are taken once for all folds; which n-grams are kept, their weights and the regression are fitted in each."""
    counter = CountVectorizer(analyzer="char", ngram_range=(1, 5), lowercase=False, min_df=MIN_DF, dtype=np.float32)
    try:
        counts = counter.fit_transform(captions)
    except ValueError as error:
        # Captions that share no n-gram three times leave nothing to learn from: a constant, which ranks nothing.
        if "no terms remain" not in str(error) and "empty vocabulary" not in str(error):
            raise
        return np.zeros(len(member))
    # Dual coordinate descent: on many weak n-grams the default solver's gradient is small from the start, and it stops there.
    regression = LogisticRegression(C=2.0, solver="liblinear", dual=True, max_iter=1000, random_state=0)
    model = make_pipeline(_Frequent(), TfidfTransformer(sublinear_tf=True), regression)
    return out_of_fold(model, counts, member, seed, groups)
