"""What must be chosen on other samples than it is reported on: signal, threshold, and probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from raymia.errors import ConfigError
from raymia.evaluation.labelled import LabelledSamples, check_table
from raymia.evaluation.posterior import Reliability, at_prior, membership_probability, reliability
from raymia.evaluation.roc import Floats
from raymia.evaluation.transfer import Transfer, halves, transfer


@dataclass(frozen=True)
class Beforehand:
    """What was chosen, and what came of it; nothing where there is no signal of an attack or too few samples.

    Attributes:
        transfer: signal and threshold for each access level and target FPR.
        calibrated_on: the other run that was chosen on; none: a half, or the folds, of this one.
        reliability: whether the probabilities mean what they say.
        labelled: (n,) probability of membership of the labelled samples, at the prior.
        unlabelled: (m,) the same of those whose membership is unknown.
    """

    transfer: tuple[Transfer, ...] = ()
    calibrated_on: str | None = None
    reliability: Reliability | None = None
    labelled: Floats | None = None
    unlabelled: Floats | None = None


def choose_beforehand(
    labelled: LabelledSamples, unlabelled: pd.DataFrame, prior: float, calibrate_on: tuple[str, pd.DataFrame] | None
) -> Beforehand:
    """Choose on another run where one is given, else on a half of the samples and out of fold.

    Args:
        unlabelled: table of the m samples of unknown membership.
        prior: share of members among the images in question.
        calibrate_on: name and score table of samples to choose on.

    Raises:
        ConfigError: the run to choose on lacks signals, or has not both members and non-members.
    """
    names = labelled.widest_signals()
    if not names or (calibrate_on is None and not labelled.can_fold):
        return Beforehand()
    if calibrate_on is None:
        calibrated_on, other = None, None
        chosen = transfer(*halves(labelled))
    else:
        calibrated_on, other = calibrate_on[0], _calibration(*calibrate_on, labelled, names)
        chosen = transfer(other, labelled)
    known, unknown = membership_probability(labelled, names, unlabelled[names].to_numpy(float), other)
    share = float((other or labelled).member.mean())
    own_share = float(labelled.member.mean())
    return Beforehand(
        transfer=tuple(chosen),
        calibrated_on=calibrated_on,
        reliability=reliability(names, at_prior(known, share, own_share), labelled.member, prior),
        labelled=at_prior(known, share, prior),
        unlabelled=at_prior(unknown, share, prior),
    )


def _calibration(name: str, table: pd.DataFrame, labelled: LabelledSamples, names: list[str]) -> LabelledSamples:
    """The samples to choose on."""
    missing = [signal for signal in names if signal not in table]
    if missing:
        raise ConfigError(f"--calibrate-on {name}: it lacks {', '.join(missing[:3])}; scan it with the same attacks")
    signals = [labelled.signals[signal] for signal in names]
    check_table(table, signals, f"--calibrate-on {name}")
    other = LabelledSamples.of_table(table, signals, labelled.seed)
    if not other.both_classes:
        raise ConfigError(f"--calibrate-on {name}: needs scored members and non-members")
    return other
