"""The true-positive rate at a false-positive rate of 10 %."""

from __future__ import annotations

from typing import ClassVar

from raymia.evaluation.measures.base import TprAtFpr


class TprAtTenPercent(TprAtFpr):
    """The share of members found while at most ten in a hundred non-members are accused."""

    name: ClassVar[str] = "tpr_at_10_percent"
    heading: ClassVar[str] = "TPR at 10 % FPR"
    fpr: ClassVar[float] = 0.1
    chance: ClassVar[float] = 0.1
    order: ClassVar[int] = 10
