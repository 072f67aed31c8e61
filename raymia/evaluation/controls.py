"""Controls of the evaluation itself: labels that mean nothing, and a model that cannot have seen the samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from raymia.data.selection import IDENTITY
from raymia.evaluation.adjusted import adjusted_scores
from raymia.evaluation.bootstrap import bootstrap
from raymia.evaluation.fitted import fit_scores
from raymia.evaluation.intervals import Interval, chance_spread, interval
from raymia.evaluation.labelled import LabelledSamples
from raymia.evaluation.measures.auc import Auc
from raymia.evaluation.measures.base import statistics
from raymia.evaluation.roc import Floats
from raymia.evaluation.signals import UNTRIED


class LabelShuffle(BaseModel):
    """Everything that is fitted to labels, fitted to labels shuffled at random: it must find nothing."""

    auc: dict[str, float]
    """By blind baseline, combination and adjusted signal, against the shuffled labels."""
    band: tuple[float, float]
    """Where all of them lie, but for one evaluation in a hundred, if no label leaks into the scores."""

    @property
    def alarmed(self) -> list[str]:
        """Those above the band."""
        return [name for name, value in self.auc.items() if value > self.band[1]]


def label_shuffle(labelled: LabelledSamples) -> LabelShuffle | None:
    """Fit everything to shuffled labels that is fitted to the true ones.

    Returns:
        None where the classes are too small for folds, so that nothing is fitted.
    """
    if not labelled.can_fold:
        return None
    shuffled = labelled.with_shuffled_labels()
    columns = fit_scores(shuffled).columns
    spread = chance_spread(labelled.n_members, labelled.n_non_members)
    # Scores out of fold scatter more than a score that was there before: on the test bed 1.1 to 1.5 times as much over 40
    # shuffles. So the nominal level is one in a thousand, for all of them together.
    reach = norm.ppf(1 - 0.0005 / max(1, len(columns))) * spread
    return LabelShuffle(
        auc={name: float(roc_auc_score(shuffled.member, scores)) for name, scores in columns.items()},
        band=(float(0.5 - reach), float(0.5 + reach)),
    )


@dataclass(frozen=True)
class ControlComparison:
    """The attacked model held against one that cannot have seen the samples.

    Attributes:
        model: the control model; none where none was scanned.
        auc: of the control model, by primary signal.
        excess: AUC of the attacked model minus that, paired, by primary signal.
        unmatched: samples that the control model has no scores for.
    """

    model: str | None = None
    auc: Mapping[str, Interval] = field(default_factory=dict)
    excess: Mapping[str, Interval] = field(default_factory=dict)
    unmatched: int = 0


def compare_with_control(
    labelled: LabelledSamples, control: tuple[str, pd.DataFrame] | None, adjusted: Mapping[str, Floats] | None = None
) -> ControlComparison:
    """Compare the primary signals of attacks on the samples that both models have scores for.

    Args:
        adjusted: (n,) adjusted scores by the attacked model; those by the control model are fitted here.
        control: name of the control model and its scores, matched by split, shard and key.
    """
    if control is None:
        return ControlComparison()
    model, scores = control
    matched = labelled.rows[IDENTITY].merge(scores, on=IDENTITY, how="left", validate="one_to_one")
    names = [name for name, signal in labelled.signals.items() if signal.primary and signal.access not in UNTRIED]
    both = matched[names].notna().all(axis=1).to_numpy()
    unmatched = int((~both).sum())
    compared = labelled.part(both)
    if not compared.both_classes:
        return ControlComparison(model, unmatched=unmatched)
    own = {name: compared.columns[name] for name in names}
    theirs = {name: matched.loc[both, name].to_numpy(float) for name in names}
    if adjusted:
        further = adjusted_scores(replace(compared, rows=labelled.rows[both], columns=theirs)).labelled
        own |= {name: adjusted[name][both] for name in further}
        theirs |= further
    auc, excess = against_control(own, theirs, compared.member, labelled.seed)
    return ControlComparison(model, auc, excess, unmatched)


def against_control(
    own: Mapping[str, Floats], control: Mapping[str, Floats], member: NDArray[np.bool_], seed: int
) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """The control model's AUC, and the attacked model's AUC minus it, by signal; resampled in pairs.

    Args:
        own, control: (n,) scores of the same samples by the attacked and the control model.
        member: (n,) labels with both classes.
    """
    auc, excess = {}, {}
    taken = statistics([Auc()])
    ours, theirs = bootstrap(own, member, taken, seed), bootstrap(control, member, taken, seed)
    for name in own:
        value, control_value = (float(roc_auc_score(member, columns[name])) for columns in (own, control))
        auc[name] = interval(control_value, theirs[name][Auc.name])
        excess[name] = interval(value - control_value, ours[name][Auc.name] - theirs[name][Auc.name])
    return auc, excess
