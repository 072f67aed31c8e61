"""Controls of the evaluation itself: labels that mean nothing, and a model that cannot have seen the samples."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from raymia.evaluation.blind import blind_scores
from raymia.evaluation.bootstrap import bootstrap
from raymia.evaluation.combined import combined_scores
from raymia.evaluation.crossfit import Groups
from raymia.evaluation.intervals import Interval, chance_spread, interval
from raymia.evaluation.measures.auc import Auc
from raymia.evaluation.measures.base import statistics
from raymia.evaluation.roc import Floats


class LabelShuffle(BaseModel):
    """Everything that is fitted to labels, fitted to labels shuffled at random: it must find nothing."""

    auc: dict[str, float]
    """By blind baseline and combination, against the shuffled labels."""
    band: tuple[float, float]
    """Where all of them lie, but for one evaluation in a hundred, if no label leaks into the scores."""

    @property
    def alarmed(self) -> list[str]:
        """Those above the band."""
        return [name for name, value in self.auc.items() if value > self.band[1]]


def label_shuffle(
    table: pd.DataFrame,
    columns: Mapping[str, Floats],
    access: Mapping[str, str],
    member: NDArray[np.bool_],
    seed: int,
    groups: Groups = None,
) -> LabelShuffle:
    """Fit blind baselines and combinations to shuffled labels, as they are fitted to the true ones.

    Args:
        table, columns: what they are fitted on; see `blind_scores` and `combined_scores`.
    """
    shuffled = np.random.default_rng(seed).permutation(member)
    scores = {f"blind.{name}": found for name, found in blind_scores(table, shuffled, seed, groups).items()}
    scores |= combined_scores(columns, access, shuffled, seed, groups)
    spread = chance_spread(int(member.sum()), int((~member).sum()))
    # Scores out of fold scatter more than a score that was there before: on the test bed 1.1 to 1.5 times as much over 40
    # shuffles. So the nominal level is one in a thousand, for all of them together.
    reach = norm.ppf(1 - 0.0005 / max(1, len(scores))) * spread
    return LabelShuffle(
        auc={name: float(roc_auc_score(shuffled, found)) for name, found in scores.items()},
        band=(float(0.5 - reach), float(0.5 + reach)),
    )


def against_control(
    own: Mapping[str, Floats], control: Mapping[str, Floats], member: NDArray[np.bool_], seed: int
) -> dict[str, tuple[Interval, Interval]]:
    """The control model's AUC, and the attacked model's AUC minus it, by signal; resampled in pairs.

    Args:
        own, control: scores of the same samples by the attacked and the control model.
    """
    found = {}
    taken = statistics([Auc()])
    ours, theirs = bootstrap(own, member, taken, seed), bootstrap(control, member, taken, seed)
    for name in own:
        value, control_value = (float(roc_auc_score(member, columns[name])) for columns in (own, control))
        draws = ours[name][Auc.name] - theirs[name][Auc.name]
        found[name] = (interval(control_value, theirs[name][Auc.name]), interval(value - control_value, draws))
    return found
