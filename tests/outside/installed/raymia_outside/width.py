"""The blind baseline that sees how wide an image is."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raymia.evaluation.baselines.base import Baseline
from raymia.evaluation.crossfit import Groups, linear_model, out_of_fold
from raymia.evaluation.roc import Floats


class Width(Baseline):
    """Logistic regression on the number of pixels in a row."""

    name: ClassVar = "outside_width"
    title: ClassVar = "logistic regression on the width of the image"
    columns: ClassVar = ("width",)

    def scores(self, table: pd.DataFrame, member: NDArray[np.bool_], seed: int, groups: Groups) -> Floats:
        return out_of_fold(linear_model(), table[["width"]].to_numpy(float), member, seed, groups)
