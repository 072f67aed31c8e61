"""The blind baseline that sees CLIP embeddings of the images."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raymia.evaluation.baselines.base import Baseline
from raymia.evaluation.crossfit import Groups, linear_model, out_of_fold
from raymia.evaluation.embeddings import embeddings
from raymia.evaluation.roc import Floats
from raymia.run.columns import EMBEDDING


class EmbeddingBaseline(Baseline):
    """Logistic regression on the image's CLIP embedding, where the job named a CLIP."""

    name: ClassVar[str] = "embedding"
    title: ClassVar[str] = "logistic regression on CLIP embeddings of the images"
    columns: ClassVar[tuple[str, ...]] = (EMBEDDING,)
    order: ClassVar[int] = 30

    def scores(self, table: pd.DataFrame, member: NDArray[np.bool_], seed: int, groups: Groups) -> Floats:
        """See `Baseline.scores`."""
        vectors = embeddings(table)
        assert vectors is not None, "usable() said that every row has an embedding"
        return out_of_fold(linear_model(), vectors, member, seed, groups)
