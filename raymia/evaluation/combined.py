"""All signals of an access level in one score, and scores as probabilities."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer

from raymia.attacks.base import Access
from raymia.evaluation.crossfit import Groups, linear_model, out_of_fold
from raymia.evaluation.roc import Floats

LEVELS = (Access.BLACK, Access.GREY, Access.WHITE)
STRENGTH = 0.1
"""Of the combination's regularisation: there are often more signals than the samples can tell apart."""
BINS = 10


class Reliability(BaseModel):
    """Whether probabilities of membership mean what they say, on samples they were not fitted on."""

    signal: str
    prior: float
    """Share of members among the samples that the probabilities are for."""
    predicted: list[float]
    """Mean predicted probability of each tenth of the samples, at the data set's own share of members."""
    observed: list[float]
    """Share of members in it."""
    brier: float
    """Mean squared error of the probability; always saying the share of members gives share x (1 - share)."""


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


def membership_probability(
    scores: Floats, member: NDArray[np.bool_], seed: int, prior: float, groups: Groups = None
) -> tuple[Floats, Floats]:
    """Probability of membership given the score, cross-fitted: logistic regression on the score's normal quantile.

    Args:
        prior: share of members among the images that the question is about.

    Returns:
        At the data set's own share of members, and at `prior`, by Bayes' rule on the odds.
    """
    quantiles = QuantileTransformer(n_quantiles=min(1000, len(scores)), output_distribution="normal")
    model = make_pipeline(quantiles, LogisticRegression())
    own = out_of_fold(model, scores[:, None], member, seed, groups, "predict_proba")
    share = member.mean()
    odds = own / (1 - own) * (1 - share) / share * prior / (1 - prior)
    return own, odds / (1 + odds)


def reliability(signal: str, own: Floats, member: NDArray[np.bool_], prior: float) -> Reliability:
    """Hold predicted probabilities against what was the case."""
    observed, predicted = calibration_curve(member, own, n_bins=BINS, strategy="quantile")
    return Reliability(
        signal=signal,
        prior=prior,
        predicted=predicted.tolist(),
        observed=observed.tolist(),
        brier=float(brier_score_loss(member, own)),
    )
