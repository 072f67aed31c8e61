"""What a blind baseline is: a classifier of labels that reads a sample's file and caption, and never a score.

To add one, write a file beside this one whose name is the baseline's and whose one public class extends `Baseline`; or
register such a class under the entry-point group ``raymia.baselines``. Its scores then stand in every table as
``blind.NAME``, every signal is held against it, and its labels are shuffled as a control.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raymia.errors import ConfigError, suggest
from raymia.evaluation.crossfit import Groups
from raymia.evaluation.roc import Floats
from raymia.registry import Registry
from raymia.run.columns import BLIND


class Baseline(ABC):
    """A classifier that never sees the attacked model, to show what the data set alone gives away.

    Raises:
        ConfigError: when a class is made, one of its columns is none that a blind baseline may read.
    """

    name: ClassVar[str]
    """The file's name; its score column is ``blind.NAME``."""
    title: ClassVar[str]
    """What it is and what it sees, in a few words."""
    columns: ClassVar[tuple[str, ...]] = ()
    """Columns that it reads, of `raymia.run.columns.BLIND`; it is given no others."""
    order: ClassVar[int] = 100
    """Place among the baselines, lowest first; equals stand by name."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuse a baseline that would see more than the data set."""
        super().__init_subclass__(**options)
        for column in cls.columns:
            if column not in BLIND:
                raise ConfigError(
                    f"blind baseline {cls.__qualname__}: column {column!r} is none that it may read"
                    f"{suggest(column, sorted(BLIND))}"
                )

    def usable(self, table: pd.DataFrame) -> bool:
        """Whether it can be fitted: by default, where every column that it reads is there and filled in every row."""
        return all(complete(table, column) for column in self.columns)

    @abstractmethod
    def scores(self, table: pd.DataFrame, member: NDArray[np.bool_], seed: int, groups: Groups) -> Floats:
        """(n,) score of each row, higher meaning member, by a model that was not fitted on it.

        Args:
            table: n rows of `columns`, as far as they are there; `usable` has been asked.
            member: (n,) labels, at least `raymia.evaluation.crossfit.FOLDS` of each class.
            seed: of the folds.
            groups: clusters of near-duplicates, to be kept on one side of every fold.
        """


def complete(table: pd.DataFrame, column: str) -> bool:
    """Whether a table has a column, and a value in it in every row."""
    return column in table and bool(table[column].notna().all())


BASELINES: Registry[Baseline] = Registry(
    "blind baseline",
    "raymia.baselines",
    Baseline,  # type: ignore[type-abstract]
    "raymia.evaluation.baselines",
    beside=("base",),
)
"""Every blind baseline that is installed."""


@cache
def baselines() -> tuple[Baseline, ...]:
    """Every blind baseline, in the order in which tables have them.

    Raises:
        ConfigError: one of them cannot be imported, or reads what it may not.
    """
    return tuple(kind() for kind in sorted(BASELINES.all().values(), key=lambda kind: (kind.order, kind.name)))
