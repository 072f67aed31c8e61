"""The blind baseline that sees size and image statistics."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raymia.data.statistics import STATISTICS
from raymia.evaluation.baselines.base import Baseline, complete
from raymia.evaluation.crossfit import Groups, linear_model, out_of_fold
from raymia.evaluation.roc import Floats

SIZE = ("width", "height", "jpeg_bytes")


class StatisticsBaseline(Baseline):
    """Logistic regression on width, height, aspect, bytes per pixel, and every statistic of `raymia.data.statistics`."""

    name: ClassVar[str] = "statistics"
    title: ClassVar[str] = "logistic regression on size, file size and image statistics"
    columns: ClassVar[tuple[str, ...]] = (*SIZE, *STATISTICS)
    order: ClassVar[int] = 10

    def usable(self, table: pd.DataFrame) -> bool:
        """Where every row has a size: a run that was made before there was some statistic goes without that one."""
        return all(complete(table, column) for column in SIZE)

    def scores(self, table: pd.DataFrame, member: NDArray[np.bool_], seed: int, groups: Groups) -> Floats:
        """See `Baseline.scores`."""
        return out_of_fold(linear_model(), features(table), member, seed, groups)


def features(table: pd.DataFrame) -> Floats:
    """(n, 4 + statistics) width, height, aspect (width over height), bytes per pixel, and the statistics of every row."""
    area = table["width"] * table["height"]
    derived = table.assign(aspect=table["width"] / table["height"], bytes_per_pixel=table["jpeg_bytes"] / area)
    names = ["width", "height", "aspect", "bytes_per_pixel", *(name for name in STATISTICS if complete(table, name))]
    return derived[names].to_numpy(dtype=float)
