"""The true-positive rate at a false-positive rate of 1 %."""

from __future__ import annotations

from typing import ClassVar

from raymia.evaluation.measures.base import TprAtFpr


class TprAtOnePercent(TprAtFpr):
    """The share of members found while at most one in a hundred non-members are accused."""

    name: ClassVar[str] = "tpr_at_1_percent"
    heading: ClassVar[str] = "TPR at 1 % FPR"
    fpr: ClassVar[float] = 0.01
    chance: ClassVar[float] = 0.01
    order: ClassVar[int] = 20
    terminal: ClassVar[bool] = True
