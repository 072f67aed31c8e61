from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from raymia.evaluation.labelled import LabelledSamples
from raymia.evaluation.posterior import at_prior, membership_probability, reliability

NAMES = ["one", "other"]


def scores_of(seed: int, n: int, share: float = 0.5) -> LabelledSamples:
    random = np.random.default_rng(seed)
    member = random.random(n) < share
    scores = random.normal(size=(n, 2)) + 1.5 * member[:, None]
    return LabelledSamples(pd.DataFrame(index=range(n)), member, dict(zip(NAMES, scores.T, strict=True)))


def test_probabilities_of_samples_outside_the_fit_mean_what_they_say() -> None:
    own = scores_of(5, 4000)
    labelled, unknown = membership_probability(own, NAMES, scores_of(6, 50).features(NAMES))
    found = reliability(["s"], labelled, own.member, 0.5)
    for predicted, observed in zip(found.predicted, found.observed, strict=True):
        assert observed.low - 0.03 <= predicted <= observed.high + 0.03
    assert found.brier < 0.12
    assert unknown.shape == (50,)


def test_probabilities_fitted_on_another_run_hold_at_another_share_of_members() -> None:
    own, other = scores_of(7, 4000, share=0.2), scores_of(8, 4000, share=0.5)
    labelled, _ = membership_probability(own, NAMES, np.empty((0, 2)), other)
    found = reliability(["s"], at_prior(labelled, other.member.mean(), own.member.mean()), own.member, 0.2)
    assert np.abs(np.array(found.predicted) - [point.value for point in found.observed]).max() < 0.07


def test_the_odds_follow_the_prior() -> None:
    own = np.array([0.1, 0.5, 0.9, 1.0, 0.0])
    rare = at_prior(own, 0.5, 0.01)
    assert rare[:3] / (1 - rare[:3]) == pytest.approx(own[:3] / (1 - own[:3]) / 99)
    assert rare[3:] == pytest.approx([1.0, 0.0])
    assert at_prior(own, 0.3, 0.3) == pytest.approx(own)
