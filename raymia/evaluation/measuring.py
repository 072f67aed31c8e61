"""Every measure of every score with its interval, and the verdict that follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from raymia.evaluation.bootstrap import Resampled, bootstrap
from raymia.evaluation.controls import ControlComparison
from raymia.evaluation.fitted import FittedScores
from raymia.evaluation.intervals import TAILS, Interval, NoiseFloor, delong, holm, interval, noise_floor
from raymia.evaluation.labelled import LabelledSamples
from raymia.evaluation.measures.auc import Auc
from raymia.evaluation.measures.base import intervals, measures, statistics
from raymia.evaluation.results import GRID, Curve, RunVerdict, SignalMetrics
from raymia.evaluation.roc import Floats, exact_roc
from raymia.evaluation.signals import UNTRIED
from raymia.evaluation.verdict import blind_statement, run_verdict, signal_statement, signal_verdict
from raymia.run.record import SignalRecord

BAND = "ROC band"
"""Among the statistics of the bootstrap; no measure can have this name."""
Draws = Mapping[str, Mapping[str, Floats]]
"""(draws,) of each measure, and (draws, len(GRID)) of the band, by score column."""


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        signals: metrics and verdict of every score, highest AUC first.
        bands: of their ROC curves.
        best_blind: the blind baseline with the highest AUC; none where none could be fitted.
        floor: at this number of samples.
        signals_tried: attacks' signals and combinations; blind baselines and controls are none.
        verdict: of the run.
    """

    signals: dict[str, SignalMetrics]
    bands: dict[str, Curve]
    best_blind: str | None
    floor: NoiseFloor
    signals_tried: int
    verdict: RunVerdict


def measure_scores(labelled: LabelledSamples, fitted: FittedScores, control: ControlComparison) -> Measured:
    """Measure the attacks' scores and the fitted ones, hold them against the best blind baseline, and judge.

    Args:
        labelled: samples with both classes.
    """
    columns = {**labelled.columns, **fitted.columns}
    described = {**labelled.signals, **fitted.signals}
    draws = bootstrap(columns, labelled.member, statistics(measures()) | {BAND: _band}, labelled.seed)
    floor = noise_floor(labelled.n_members, labelled.n_non_members)
    unsorted = {name: _measured(described[name], columns[name], labelled.member, draws[name]) for name in columns}
    measured = dict(sorted(unsorted.items(), key=lambda entry: -_auc(entry[1])))
    best = max(fitted.blind, key=lambda name: _auc(measured[name]), default=None)
    corrected = _corrected(measured)
    signals: dict[str, SignalMetrics] = {}
    rivals = [*fitted.appearance, *([best] if best else [])]
    strictest = max(rivals, key=lambda name: _auc(measured[name]), default=None)
    for name, signal in measured.items():
        rival = strictest if name in fitted.adjusted else best
        compared = signal.model_copy(update=_comparisons(name, measured, draws, rival, control))
        signals[name] = compared.model_copy(update={"p_holm": corrected.get(name), **_judgement(name, compared, floor, rival)})
    return Measured(
        signals=signals,
        bands={name: Curve(GRID, *np.quantile(draws[name][BAND], TAILS, axis=0)) for name in signals},
        best_blind=best,
        floor=floor,
        signals_tried=len(corrected),
        verdict=_run_verdict(signals, best, floor),
    )


def unmeasured(labelled: LabelledSamples, reason: str) -> dict[str, SignalMetrics]:
    """Metrics of every signal where nothing can be measured."""
    return {
        name: SignalMetrics(
            attack=signal.attack,
            access=signal.access,
            primary=signal.primary,
            measures={measure.name: None for measure in measures()},
            n_members=labelled.n_members,
            n_non_members=labelled.n_non_members,
            reason=reason,
        )
        for name, signal in labelled.signals.items()
    }


def _band(resampled: Resampled) -> Floats:
    return resampled.tpr_at(GRID)


def _measured(described: SignalRecord, scores: Floats, member: NDArray[np.bool_], draws: Mapping[str, Floats]) -> SignalMetrics:
    """What one column says by itself."""
    return SignalMetrics(
        attack=described.attack,
        access=described.access,
        primary=described.primary,
        measures=dict(intervals(exact_roc(scores, member), draws)),
        auc_delong=delong(scores, member),
        p_value=float(mannwhitneyu(scores[member], scores[~member], alternative="greater").pvalue),
        n_members=int(member.sum()),
        n_non_members=int((~member).sum()),
    )


def _corrected(measured: Mapping[str, SignalMetrics]) -> dict[str, float]:
    """p-value of every signal tried, corrected for their number."""
    return holm({name: s.p_value for name, s in measured.items() if s.access not in UNTRIED and s.p_value is not None})


def _comparisons(
    name: str, measured: Mapping[str, SignalMetrics], draws: Draws, best: str | None, control: ControlComparison
) -> dict[str, Any]:
    """Fields of one signal that hold it against others."""
    excess = None
    if best is not None and measured[name].access != "blind":
        difference = _auc(measured[name]) - _auc(measured[best])
        excess = interval(difference, draws[name][Auc.name] - draws[best][Auc.name])
    return {
        "excess_over_blind": excess,
        "control_auc": control.auc.get(name),
        "excess_over_control": control.excess.get(name),
    }


def _judgement(name: str, signal: SignalMetrics, floor: NoiseFloor, best: str | None) -> dict[str, Any]:
    """Fields of one signal that say what to make of it."""
    if signal.access == "blind":
        return {"reason": "a blind baseline gets no verdict: it is what the others are held against"}
    assert signal.auc is not None
    excess, over_control = signal.excess_over_blind, signal.excess_over_control
    verdict = signal_verdict(signal.auc, excess, floor, over_control)
    statement = signal_statement(name, verdict, signal.auc, excess, best, over_control) if signal.primary else None
    return {"verdict": verdict, "statement": statement}


def _run_verdict(signals: Mapping[str, SignalMetrics], best: str | None, floor: NoiseFloor) -> RunVerdict:
    judged = {name: s for name, s in signals.items() if s.primary and s.verdict is not None}
    attacks = {name: s.verdict for name, s in judged.items() if s.access != "control" and s.verdict}
    controls = {name: s.verdict for name, s in judged.items() if s.access == "control" and s.verdict}
    auc: Interval | None = signals[best].auc if best else None
    if not attacks:
        return RunVerdict(verdict=None, statement=blind_statement(best, auc, floor))
    word, statement = run_verdict(attacks, controls, f"{best}, AUC {auc.value:.3f}" if auc else None)
    return RunVerdict(verdict=word, statement=statement)


def _auc(signal: SignalMetrics) -> float:
    assert signal.auc is not None
    return signal.auc.value
