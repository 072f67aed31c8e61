"""All signals of an access level in one score."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from raymia.evaluation.crossfit import Groups, linear_model, out_of_fold
from raymia.evaluation.roc import Floats
from raymia.run.record import Access

LEVELS = (Access.BLACK, Access.GREY, Access.WHITE)
STRENGTH = 0.1
"""Of the combination's regularisation: there are often more signals than the samples can tell apart."""


def signals_of(level: Access, access: Mapping[str, str]) -> list[str]:
    """The signals that an attacker of this level has; controls are no evidence and left out."""
    return [name for name, own in access.items() if own in LEVELS and level.allows(Access(own))]


def combined_scores(
    columns: Mapping[str, Floats], access: Mapping[str, str], member: NDArray[np.bool_], seed: int, groups: Groups = None
) -> dict[str, Floats]:
    """Cross-fitted logistic regression over all signals of each access level, as ``combined.<level>``.

    A level that adds no signal to the one below it, or has one signal only, is left out.

    Args:
        columns: scores by signal.
        access: access by signal.
    """
    scores: dict[str, Floats] = {}
    below: list[str] = []
    for level in LEVELS:
        names = signals_of(level, access)
        if len(names) > max(1, len(below)):
            features = np.column_stack([columns[name] for name in names])
            scores[f"combined.{level}"] = out_of_fold(linear_model(STRENGTH), features, member, seed, groups)
        below = names
    return scores
