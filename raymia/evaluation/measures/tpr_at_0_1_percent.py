"""The true-positive rate at a false-positive rate of 0.1 %."""

from __future__ import annotations

from typing import ClassVar

from raymia.evaluation.measures.base import TprAtFpr


class TprAtTenthOfPercent(TprAtFpr):
    """The share of members found while at most one in a thousand non-members are accused."""

    name: ClassVar[str] = "tpr_at_0_1_percent"
    heading: ClassVar[str] = "TPR at 0.1 % FPR"
    fpr: ClassVar[float] = 0.001
    chance: ClassVar[float] = 0.001
    order: ClassVar[int] = 30
