"""Generated images as a control: in nobody's training set, and yet often scored as members."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from pydantic import BaseModel

from raymia.evaluation.intervals import Interval, delong
from raymia.evaluation.labelled import LabelledSamples
from raymia.evaluation.roc import exact_roc
from raymia.evaluation.signals import UNTRIED

ALARM_FPR = 0.01
"""Share of non-members beyond the threshold at which generated images are counted."""


class GeneratedAlarm(BaseModel):
    """Where one signal puts generated images, none of which any model was trained on."""

    auc: Interval
    """Of generated images above non-members, with DeLong's interval; .5 where the signal takes them for what they are."""
    beyond: float
    """Share of generated images beyond the threshold that at most 1 % of the non-members pass."""
    members_auc: Interval
    """Of members above the same non-members, for comparison."""
    members_beyond: float
    """Share of members beyond the same threshold."""

    @property
    def alarmed(self) -> bool:
        """Whether generated images stand above non-members beyond chance."""
        return self.auc.low > 0.5


class GeneratedControl(BaseModel):
    """Where the primary signals of attacks put generated images."""

    samples: int
    signals: dict[str, GeneratedAlarm]


def compare_generated(labelled: LabelledSamples, generated: pd.DataFrame) -> GeneratedControl | None:
    """Hold generated images against non-members, by every primary signal of an attack.

    Args:
        labelled: with members and non-members.
        generated: a column per signal.

    Returns:
        None where there are no generated images.
    """
    if generated.empty:
        return None
    names = [name for name, signal in labelled.signals.items() if signal.primary and signal.access not in UNTRIED]
    others = ~labelled.member
    found = {}
    for name in names:
        column = labelled.columns[name]
        scores = np.concatenate([generated[name].to_numpy(float), column[others]])
        made = np.arange(len(scores)) < len(generated)
        found[name] = GeneratedAlarm(
            auc=delong(scores, made),
            beyond=exact_roc(scores, made).tpr_at(ALARM_FPR),
            members_auc=delong(column, labelled.member),
            members_beyond=exact_roc(column, labelled.member).tpr_at(ALARM_FPR),
        )
    return GeneratedControl(samples=len(generated), signals=found)


def generated_warnings(control: GeneratedControl | None) -> list[str]:
    """Of signals that take generated images for members."""
    if control is None:
        return []
    alarmed = {name: alarm for name, alarm in control.signals.items() if alarm.alarmed}
    if not alarmed:
        return []
    more = [name for name, alarm in alarmed.items() if alarm.auc.value >= alarm.members_auc.value]
    warnings = [
        f"{_listed(alarmed)} put generated images above the non-members (AUC up to "
        f"{max(alarm.auc.value for alarm in alarmed.values()):.3f}), which no model was trained on: part of such a score is "
        "what the model finds easy, and not memory."
    ]
    if more:
        warnings.append(
            f"By {_listed(more)} generated images stand as high as the members or higher: alone it shows no memory."
        )
    return warnings


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
