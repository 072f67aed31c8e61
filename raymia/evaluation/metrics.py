"""From a run directory to metrics.json."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy.stats import mannwhitneyu

from raymia.errors import RaymiaError
from raymia.evaluation.blind import FrechetShift, blind_scores, embeddings, frechet_shift
from raymia.evaluation.combined import combined_scores
from raymia.evaluation.crossfit import can_fold
from raymia.evaluation.intervals import Bootstrap, Interval, NoiseFloor, bootstrap, delong, holm, interval, noise_floor
from raymia.evaluation.roc import FPRS, Floats, exact_roc
from raymia.evaluation.transfer import Transfer, halves, transfer
from raymia.evaluation.verdict import Verdict, run_verdict, signal_verdict
from raymia.scan.ledger import RUN_FILE, Counts, Ledger

UNTRIED = ("control", "blind")
"""Access of scores that nobody would report as an attack."""
MIN_FALSE_ALARMS = 10
"""Fewer non-members than this beyond a threshold make its TPR a matter of luck."""


class SignalMetrics(BaseModel):
    """How well one score column tells members from non-members; null with a reason where that cannot be computed."""

    attack: str
    access: str
    primary: bool
    auc: Interval | None
    auc_delong: Interval | None
    """The same AUC with DeLong's interval, which does not resample."""
    p_value: float | None
    """One-sided Mann-Whitney test of members scoring above non-members."""
    p_holm: float | None
    """The same, corrected for the number of signals tried; none for blind baselines and controls."""
    tpr_at_fpr: dict[str, Interval | None]
    excess_over_blind: Interval | None
    n_members: int
    n_non_members: int
    verdict: Verdict | None
    reason: str | None


class RunVerdict(BaseModel):
    """The run's verdict as a word and in words."""

    verdict: Verdict | None
    statement: str


class Floor(BaseModel):
    """95 % bands for scores that know nothing, at this number of samples."""

    auc: tuple[float, float]
    tpr_at_fpr: dict[str, tuple[float, float]]


class Metrics(BaseModel):
    """Contents of metrics.json."""

    counts: Counts
    verdict: RunVerdict
    noise_floor: Floor | None
    signals_tried: int
    transfer: list[Transfer]
    """Signal and threshold chosen on half of the samples, and what they achieve on the other half."""
    embedding_shift: FrechetShift | None
    """Between the splits' CLIP embeddings, where a CLIP was configured."""
    warnings: list[str]
    signals: dict[str, SignalMetrics]


class Evaluation(BaseModel):
    """Metrics with the tables they were computed from."""

    model_config = {"arbitrary_types_allowed": True}

    run: dict[str, object]
    metrics: Metrics
    table: pd.DataFrame
    """Labelled and unlabelled samples with their scores, blind baselines included."""


def evaluate(ledger: Ledger, seed: int = 0) -> Evaluation:
    """Evaluate what a run directory holds.

    Raises:
        RaymiaError: there is no run, or nothing is committed.
    """
    run = ledger.read_run()
    if run is None:
        raise RaymiaError(f"{ledger.run}: no {RUN_FILE}; give a run directory made by `raymia scan`")
    counts = ledger.counts(run["expected"])
    table = ledger.scores().to_pandas()
    labelled = table["member"].notna().to_numpy()
    member = table.loc[labelled, "member"].astype(bool).to_numpy()
    described = {signal["name"]: signal for signal in run["signals"]}
    columns: dict[str, Floats] = {name: table.loc[labelled, name].to_numpy(float) for name in described}
    warnings = _warnings(counts, run, member, labelled)
    if not member.any() or member.all():
        reason = "needs scored members and non-members"
        signals = {name: _unknown(signal, member, reason) for name, signal in described.items()}
        verdict = RunVerdict(verdict=None, statement=f"No verdict: it {reason}; the scores are in the table.")
        metrics = Metrics(
            counts=counts,
            verdict=verdict,
            noise_floor=None,
            signals_tried=len(described),
            transfer=[],
            embedding_shift=None,
            warnings=warnings,
            signals=signals,
        )
        return Evaluation(run=run, metrics=metrics, table=table)
    blind = blind_scores(table[labelled], member, seed)
    for name, scores in blind.items():
        described[f"blind.{name}"] = {"attack": f"blind.{name}", "access": "blind", "primary": True}
        columns[f"blind.{name}"] = scores
        table.loc[labelled, f"blind.{name}"] = scores
    access = {signal["name"]: signal["access"] for signal in run["signals"]}
    transferred, shift = [], None
    if can_fold(member):
        half, own = halves(member, seed), table.loc[labelled, list(access)]
        transferred = transfer(own[half], member[half], own[~half], member[~half], access)
        vectors = embeddings(table[labelled])
        shift = frechet_shift(vectors, member, seed) if vectors is not None else None
        for name, scores in combined_scores(columns, access, member, seed).items():
            described[name] = {"attack": name, "access": name.removeprefix("combined."), "primary": True}
            columns[name] = scores
            table.loc[labelled, name] = scores
    floor = noise_floor(int(member.sum()), int((~member).sum()), seed)
    aucs = {name: exact_roc(scores, member).auc for name, scores in columns.items()}
    draws = {name: bootstrap(scores, member, seed) for name, scores in columns.items()}
    best = max((f"blind.{name}" for name in blind), key=lambda name: aucs[name], default=None)
    signals = {
        name: _measure(described[name], scores, member, draws[name], floor, (aucs[best], draws[best]) if best else None)
        for name, scores in columns.items()
    }
    tried = {
        name: signal.p_value for name, signal in signals.items() if signal.access not in UNTRIED and signal.p_value is not None
    }
    for name, corrected in holm(tried).items():
        signals[name].p_holm = corrected
    order = sorted(signals, key=lambda name: -aucs[name])
    primary = {name: s.verdict for name, s in signals.items() if s.primary and s.access != "blind" and s.verdict}
    controls = {name: verdict for name, verdict in primary.items() if signals[name].access == "control"}
    attacks = {name: verdict for name, verdict in primary.items() if name not in controls}
    word, statement = run_verdict(attacks, controls, f"{best}, AUC {aucs[best]:.3f}" if best else None)
    metrics = Metrics(
        counts=counts,
        verdict=RunVerdict(verdict=word, statement=statement),
        noise_floor=Floor(auc=floor.auc, tpr_at_fpr={f"{rate:g}": band for rate, band in floor.tpr.items()}),
        signals_tried=len(tried),
        transfer=transferred,
        embedding_shift=shift,
        warnings=warnings,
        signals={name: signals[name] for name in order},
    )
    return Evaluation(run=run, metrics=metrics, table=table)


def _measure(
    described: dict[str, object],
    scores: Floats,
    member: NDArray[np.bool_],
    draws: Bootstrap,
    floor: NoiseFloor,
    blind: tuple[float, Bootstrap] | None,
) -> SignalMetrics:
    curve = exact_roc(scores, member)
    auc = interval(curve.auc, draws.auc)
    is_blind = described["access"] == "blind"
    excess = None if blind is None or is_blind else interval(curve.auc - blind[0], draws.auc - blind[1].auc)
    return SignalMetrics(
        attack=str(described["attack"]),
        access=str(described["access"]),
        primary=bool(described["primary"]),
        auc=auc,
        auc_delong=delong(scores, member),
        p_value=float(mannwhitneyu(scores[member], scores[~member], alternative="greater").pvalue),
        p_holm=None,
        tpr_at_fpr={f"{rate:g}": interval(curve.tpr_at(rate), draws.tpr[:, i]) for i, rate in enumerate(FPRS)},
        excess_over_blind=excess,
        n_members=int(member.sum()),
        n_non_members=int((~member).sum()),
        verdict=None if is_blind else signal_verdict(auc, excess, floor),
        reason="a blind baseline gets no verdict: it is what the others are held against" if is_blind else None,
    )


def _unknown(described: dict[str, object], member: NDArray[np.bool_], reason: str) -> SignalMetrics:
    return SignalMetrics(
        attack=str(described["attack"]),
        access=str(described["access"]),
        primary=bool(described["primary"]),
        auc=None,
        auc_delong=None,
        p_value=None,
        p_holm=None,
        tpr_at_fpr={f"{rate:g}": None for rate in FPRS},
        excess_over_blind=None,
        n_members=int(member.sum()),
        n_non_members=int((~member).sum()),
        verdict=None,
        reason=reason,
    )


def _warnings(counts: Counts, run: dict[str, object], member: NDArray[np.bool_], labelled: NDArray[np.bool_]) -> list[str]:
    warnings = []
    others = int((~member).sum())
    few = [f"{rate:g}" for rate in FPRS if others * rate < MIN_FALSE_ALARMS]
    if few and others:
        warnings.append(
            f"TPR at FPR {', '.join(few)} rests on fewer than {MIN_FALSE_ALARMS} false alarms among {others} non-members: "
            "read it with its interval."
        )
    if not labelled.all():
        warnings.append(f"{int((~labelled).sum())} samples have unknown membership and take no part in the curves.")
    if run["finished"] is None:
        warnings.append("The scan has not finished: these are the units committed so far.")
    if counts.expected is not None and run["finished"] is not None and counts.read < counts.expected:
        warnings.append(f"{counts.read} samples were read where the manifest announces {counts.expected}.")
    return warnings
