"""What the data set alone gives away: every blind baseline's scores of labelled samples."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raymia.evaluation.baselines.base import baselines
from raymia.evaluation.crossfit import Groups, can_fold
from raymia.evaluation.roc import Floats


def blind_scores(table: pd.DataFrame, member: NDArray[np.bool_], seed: int = 0, groups: Groups = None) -> dict[str, Floats]:
    """Out-of-fold membership scores of each baseline, by its name; none where the classes are too small for folds.

    Args:
        table: n rows of the columns that `raymia.run.columns.BLIND` lists, what there is: a baseline whose columns are
            missing or empty is left out.
        member: (n,) label of each row.
        seed: of the folds.
        groups: clusters of near-duplicates, kept on one side of every fold.

    Returns:
        (n,) scores, higher meaning member.
    """
    if not can_fold(member):
        return {}
    return {
        baseline.name: baseline.scores(_seen(table, baseline.columns), member, seed, groups)
        for baseline in baselines()
        if baseline.usable(table)
    }


def _seen(table: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    """A table of what a baseline may see, and of nothing else."""
    return table[[column for column in columns if column in table]]
