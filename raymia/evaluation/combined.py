"""All signals of an access level in one score."""

from __future__ import annotations

from raymia.evaluation.crossfit import linear_model, out_of_fold
from raymia.evaluation.labelled import LabelledSamples
from raymia.evaluation.roc import Floats
from raymia.evaluation.signals import LEVELS

STRENGTH = 0.1
"""Of the combination's regularisation: there are often more signals than the samples can tell apart."""


def combined_scores(labelled: LabelledSamples) -> dict[str, Floats]:
    """Cross-fitted logistic regression over all signals of each access level, as ``combined.<level>``.

    A level that adds no signal to the one below it, or has one signal only, is left out.

    Returns:
        (n,) scores out of fold; none where the classes are too small for folds.
    """
    scores: dict[str, Floats] = {}
    below: list[str] = []
    for level in LEVELS if labelled.can_fold else ():
        names = labelled.signals_of(level)
        if len(names) > max(1, len(below)):
            scores[f"combined.{level}"] = out_of_fold(
                linear_model(STRENGTH), labelled.features(names), labelled.member, labelled.seed, labelled.groups
            )
        below = names
    return scores
