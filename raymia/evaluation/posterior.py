"""Scores as probabilities of membership, and whether those mean what they say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer

from raymia.evaluation.combined import STRENGTH
from raymia.evaluation.crossfit import one_thread, out_of_fold
from raymia.evaluation.intervals import Interval, proportion
from raymia.evaluation.labelled import LabelledSamples
from raymia.evaluation.roc import Floats

BINS = 10
PRIOR = 0.5
"""Share of members among the images in question, where nobody says otherwise."""


class Reliability(BaseModel):
    """Whether probabilities of membership mean what they say, on samples they were not fitted on."""

    signals: list[str]
    """What the probabilities are computed from."""
    prior: float
    """Share of members among the images in question; `probability` in the tables is at this prior."""
    share: float
    """Share of members in the data set; `predicted` and `observed` are at this share."""
    predicted: list[float]
    """Mean predicted probability of each tenth of the samples, in order."""
    observed: list[Interval]
    """Share of members in it."""
    brier: float
    """Mean squared error of the probability; always saying the share of members gives share x (1 - share)."""


def _model(samples: int) -> BaseEstimator:
    # Four fifths of the samples are fitted on where they are cross-fitted.
    quantiles = QuantileTransformer(n_quantiles=max(1, min(1000, samples * 4 // 5)), output_distribution="normal")
    return make_pipeline(quantiles, LogisticRegression(C=STRENGTH, max_iter=2000))


def membership_probability(
    own: LabelledSamples, names: Sequence[str], unlabelled: Floats, other: LabelledSamples | None = None
) -> tuple[Floats, Floats]:
    """Probability of membership given the scores: logistic regression on each signal's normal quantile.

    Args:
        own: the n labelled samples.
        names: of the signals to use.
        unlabelled: (m, signals) scores of samples of unknown membership.
        other: samples to fit on instead; without them the own ones are cross-fitted.

    Returns:
        (n,) for the labelled and (m,) for the others, at the share of members in what they were fitted on.
    """
    fitted_on = other or own
    model = _model(len(fitted_on.member))
    labelled: Floats
    if other is None:
        labelled = out_of_fold(model, own.features(names), own.member, own.seed, own.groups, "predict_proba")
    else:
        labelled = _fitted(model, other, names).predict_proba(own.features(names))[:, 1]
    if not len(unlabelled):
        return labelled, np.empty(0)
    return labelled, _fitted(model, fitted_on, names).predict_proba(unlabelled)[:, 1]


def _fitted(model: BaseEstimator, samples: LabelledSamples, names: Sequence[str]) -> BaseEstimator:
    with one_thread(len(samples.member)):
        return model.fit(samples.features(names), samples.member)


def at_prior(probability: Floats, share: float, prior: float) -> Floats:
    """Probabilities fitted where members have one share, for images where they have another: Bayes' rule on the odds."""
    weight, other = prior / share, (1 - prior) / (1 - share)
    return probability * weight / (probability * weight + (1 - probability) * other)


def reliability(signals: list[str], probability: Floats, member: NDArray[np.bool_], prior: float) -> Reliability:
    """Hold probabilities, at the data set's own share of members, against what was the case.

    Args:
        signals: that they were computed from.
        probability: (n,)
        member: (n,) labels.
        prior: to be named in the result.
    """
    tenths = np.array_split(np.argsort(probability, kind="stable"), min(BINS, len(member)))
    observed = [proportion(member[tenth]) for tenth in tenths]
    return Reliability(
        signals=signals,
        prior=prior,
        share=float(member.mean()),
        predicted=[float(probability[tenth].mean()) for tenth in tenths],
        observed=observed,
        brier=float(brier_score_loss(member, probability)),
    )
