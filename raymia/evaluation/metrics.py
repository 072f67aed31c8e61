"""From scores to metrics: of a run directory, of a plain table, or of a data set before any model is attacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from raymia.data.clusters import join_clusters
from raymia.errors import ConfigError
from raymia.evaluation.blind import blind_scores
from raymia.evaluation.bootstrap import bootstrap
from raymia.evaluation.combined import LEVELS, combined_scores, signals_of
from raymia.evaluation.controls import against_control, label_shuffle
from raymia.evaluation.crossfit import Groups, can_fold, cluster_groups
from raymia.evaluation.embeddings import embeddings
from raymia.evaluation.frechet import frechet_shift
from raymia.evaluation.intervals import (
    TAILS,
    Interval,
    NoiseFloor,
    delong,
    holm,
    interval,
    noise_floor,
)
from raymia.evaluation.measures.base import intervals, measures, statistics
from raymia.evaluation.posterior import PRIOR, Calibration, at_prior, membership_probability, reliability
from raymia.evaluation.results import GRID, Curve, Evaluation, Floor, Metrics, RunVerdict, SignalMetrics
from raymia.evaluation.roc import FPRS, Floats, exact_roc
from raymia.evaluation.transfer import halves, transfer
from raymia.evaluation.verdict import blind_statement, run_verdict, signal_statement, signal_verdict
from raymia.run.columns import facts
from raymia.run.ledger import Ledger
from raymia.run.record import Access, Counts, RunRecord, ScanRecord, SignalRecord

UNTRIED = ("control", "blind")
"""Access of scores that nobody would report as an attack."""
SIGNALS = "signals"
"""Attribute of a score table: descriptions of its signals, as run.json has them."""
MIN_FALSE_ALARMS = 10
"""Fewer non-members than this beyond a threshold make its TPR a matter of luck."""
Described = SignalRecord
BAND = "ROC band"


def evaluate_run(
    ledger: Ledger, seed: int = 0, prior: float = PRIOR, calibrate_on: Ledger | None = None, blind_only: bool = False
) -> Evaluation:
    """Evaluate what a run directory holds.

    Args:
        prior: share of members among the images in question, for probabilities of membership.
        calibrate_on: a run to choose signals, thresholds and probabilities on, instead of on parts of this one.
        blind_only: leave the scores out and evaluate the data set alone.

    Raises:
        RaymiaError: nothing is committed.
        ConfigError: there is no run, or the run to calibrate on cannot be used for that.
    """
    run, counts, table = _load(ledger)
    control_ledger = ledger.control()
    control = None if control_ledger.read_run() is None else _load(control_ledger)
    evaluation = evaluate_table(
        table,
        [] if blind_only else run.signals,
        title=f"{run.manifest.name} against {run.job.subject}" if isinstance(run, ScanRecord) else ledger.run,
        seed=seed,
        prior=prior,
        calibrate_on=None if calibrate_on is None else (calibrate_on.run, _load(calibrate_on)[2]),
        control=None if control is None or blind_only else (_subject(control[0]), control[2]),
        counts=counts,
    )
    evaluation.run = run
    evaluation.metrics.warnings += _scan_warnings(counts, run)
    return evaluation


def evaluate_table(
    table: pd.DataFrame,
    signals: Sequence[Described] | None = None,
    *,
    title: str = "table",
    seed: int = 0,
    prior: float = PRIOR,
    calibrate_on: tuple[str, pd.DataFrame] | None = None,
    control: tuple[str, pd.DataFrame] | None = None,
    counts: Counts | None = None,
    access: Mapping[str, str] | None = None,
) -> Evaluation:
    """Evaluate a score table.

    Args:
        table: `member` (true, false or missing), a column per signal, and what blind baselines take: `caption`, image
            statistics, `clip_embedding`; `cluster` for near-duplicates. Missing baselines' columns leave them out.
        signals: descriptions of the score columns; by default every further numeric column, see `describe_signals`.
        prior: share of members among the images in question.
        calibrate_on: name and score table of samples to choose on, instead of on parts of this one.
        control: name of a control model and its scores of the same samples, matched by split, shard and key.
        counts: of the scan; by default the table's rows.
        access: of signals by name, where `signals` are not given: ``black``, ``grey``, ``white`` or ``control``.

    Raises:
        ConfigError: no `member` column, a score that is not finite, or signals that `calibrate_on` lacks.
    """
    signals = describe_signals(table, access) if signals is None else signals
    table = table.reset_index(drop=True)
    _require(table, signals, title)
    labelled = table["member"].notna().to_numpy()
    member = table.loc[labelled, "member"].astype(bool).to_numpy()
    own = table[labelled]
    described: dict[str, Described] = {signal.name: signal for signal in signals}
    metrics = Metrics(
        counts=counts or Counts.of_table(len(table)),
        verdict=RunVerdict(verdict=None, statement=""),
        signals_tried=sum(signal.access not in UNTRIED for signal in signals),
        warnings=_warnings(member, labelled),
        signals={},
    )
    evaluation = Evaluation(title=title, run=None, metrics=metrics, table=table)
    if not member.any() or member.all():
        reason = "needs scored members and non-members"
        metrics.signals = {name: _unknown(signal, member, reason) for name, signal in described.items()}
        metrics.verdict.statement = f"No verdict: it {reason}; the scores are in the table."
        return evaluation
    groups = cluster_groups(own)
    access = {name: signal.access for name, signal in described.items()}
    columns: dict[str, Floats] = {name: own[name].to_numpy(float) for name in described}
    blind = {f"blind.{name}": scores for name, scores in blind_scores(own, member, seed, groups).items()}
    described |= {name: SignalRecord(name=name, attack=name, access="blind", primary=True) for name in blind}
    combined: dict[str, Floats] = {}
    if can_fold(member):
        combined = combined_scores(columns, access, member, seed, groups)
        described |= {
            name: SignalRecord(name=name, attack=name, access=name.removeprefix("combined."), primary=True) for name in combined
        }
        vectors = embeddings(own)
        metrics.embedding_shift = frechet_shift(vectors, member, seed) if vectors is not None else None
        metrics.label_shuffle = label_shuffle(own, columns, access, member, seed, groups)
        if metrics.label_shuffle.alarmed:
            metrics.warnings.append(
                f"With labels shuffled at random, {', '.join(metrics.label_shuffle.alarmed)} still beat chance: samples depend "
                "on each other, such as near-duplicates that the manifest names no clusters for."
            )
    _choose_beforehand(evaluation, columns, access, member, labelled, groups, seed, prior, calibrate_on)
    scores = columns | blind | combined
    for name, found in (blind | combined).items():
        table.loc[labelled, name] = found
    against = _against_control(metrics, own, control, columns, described, member, seed)
    _measure_all(evaluation, scores, described, blind, against, member, seed)
    return evaluation


def describe_signals(table: pd.DataFrame, access: Mapping[str, str] | None = None) -> list[SignalRecord]:
    """The signals of a table: those that it says it has, or every numeric column that is no fact about the sample.

    `raymia.score` says in its table's attributes what each signal is. Of other columns nothing is known but what `access`
    says of them, so that the rest counts as ``white``: as needing the most. A column ``NAME.part`` beside a column ``NAME`` is
    a part of that signal, and not judged.
    """
    if SIGNALS in table.attrs:
        return [SignalRecord.model_validate(signal) for signal in table.attrs[SIGNALS] if signal["name"] in table]
    numeric = [
        str(name)
        for name in table.columns
        if name not in {*facts(), "probability"}
        and pd.api.types.is_numeric_dtype(table[name])
        and not str(name).startswith(("blind.", "combined."))
    ]
    described = []
    for name in numeric:
        whole = next((other for other in numeric if name.startswith(f"{other}.")), name)
        needed = Access((access or {}).get(name, Access.WHITE))
        described.append(SignalRecord(name=name, attack=whole, access=str(needed), primary=whole == name))
    return described


def _load(ledger: Ledger) -> tuple[RunRecord, Counts, pd.DataFrame]:
    run = ledger.require_run()
    counts = ledger.counts(run.expected)
    return run, counts, join_clusters(ledger.frame(), ledger.clusters())


def _require(table: pd.DataFrame, signals: Sequence[Described], title: str) -> None:
    missing = [name for name in ("member", *(signal.name for signal in signals)) if name not in table]
    if missing:
        raise ConfigError(f"{title}: no column {', '.join(missing)}; expected `member` and one column for each signal")
    values = set(table["member"].dropna().unique().tolist())
    if not values <= {True, False}:
        raise ConfigError(f"{title}: `member` has the values {sorted(map(str, values))[:5]}; expected true, false or nothing")
    for signal in signals:
        broken = ~np.isfinite(table[signal.name].to_numpy(float))
        if broken.any():
            row = int(np.flatnonzero(broken)[0])
            raise ConfigError(f"{title}: {signal.name} is not a finite number in row {row}; leave such rows out")


def _choose_beforehand(
    evaluation: Evaluation,
    columns: Mapping[str, Floats],
    access: Mapping[str, str],
    member: NDArray[np.bool_],
    labelled: NDArray[np.bool_],
    groups: Groups,
    seed: int,
    prior: float,
    calibrate_on: tuple[str, pd.DataFrame] | None,
) -> None:
    """What must be chosen on other samples than it is reported on: signal, threshold, and probabilities."""
    metrics, table = evaluation.metrics, evaluation.table
    names = next((found for level in reversed(LEVELS) if (found := signals_of(level, access))), [])
    if not names or (calibrate_on is None and not can_fold(member)):
        return
    own = table.loc[labelled, list(access)]
    other, other_member = None, None
    if calibrate_on is None:
        half = halves(member, seed, groups)
        metrics.transfer = transfer(own[half], member[half], own[~half], member[~half], access)
    else:
        metrics.calibrated_on, other = calibrate_on
        other, other_member = _calibration(metrics.calibrated_on, other, names)
        metrics.transfer = transfer(other, other_member, own, member, access)
    mine = Calibration(own[names].to_numpy(float), member)
    theirs = None if other is None or other_member is None else Calibration(other[names].to_numpy(float), other_member)
    unlabelled = table.loc[~labelled, names].to_numpy(float)
    probability, unknown = membership_probability(mine, unlabelled, seed, groups, theirs)
    share = float((mine if theirs is None else theirs).member.mean())
    metrics.reliability = reliability(names, at_prior(probability, share, float(member.mean())), member, prior)
    table.loc[labelled, "probability"] = at_prior(probability, share, prior)
    table.loc[~labelled, "probability"] = at_prior(unknown, share, prior)


def _calibration(name: str, table: pd.DataFrame, signals: list[str]) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
    missing = [signal for signal in signals if signal not in table]
    if missing:
        raise ConfigError(f"--calibrate-on {name}: it lacks {', '.join(missing[:3])}; scan it with the same attacks")
    table = table[table["member"].notna()]
    member = table["member"].astype(bool).to_numpy()
    if not member.any() or member.all():
        raise ConfigError(f"--calibrate-on {name}: needs scored members and non-members")
    return table, member


def _against_control(
    metrics: Metrics,
    own: pd.DataFrame,
    control: tuple[str, pd.DataFrame] | None,
    columns: Mapping[str, Floats],
    described: Mapping[str, Described],
    member: NDArray[np.bool_],
    seed: int,
) -> dict[str, tuple[Interval, Interval]]:
    if control is None:
        return {}
    metrics.control_model, scores = control
    identity = ["split", "shard", "key"]
    matched = own[identity].merge(scores, on=identity, how="left", validate="one_to_one")
    names = [name for name in columns if described[name].primary and described[name].access not in UNTRIED]
    both = matched[names].notna().all(axis=1).to_numpy()
    if not both.all():
        metrics.warnings.append(
            f"The control model has no scores for {int((~both).sum())} samples; it is compared on the others."
        )
    if not member[both].any() or member[both].all():
        return {}
    theirs = {name: matched.loc[both, name].to_numpy(float) for name in names}
    return against_control({name: columns[name][both] for name in names}, theirs, member[both], seed)


def _measure_all(
    evaluation: Evaluation,
    scores: Mapping[str, Floats],
    described: Mapping[str, Described],
    blind: Mapping[str, Floats],
    against: Mapping[str, tuple[Interval, Interval]],
    member: NDArray[np.bool_],
    seed: int,
) -> None:
    """Intervals, comparisons and verdicts of every column, best first."""
    metrics = evaluation.metrics
    floor = noise_floor(int(member.sum()), int((~member).sum()))
    draws = bootstrap(scores, member, statistics(measures()) | {BAND: lambda resampled: resampled.tpr_at(GRID)}, seed)
    aucs = {name: exact_roc(column, member).auc for name, column in scores.items()}
    best = max(blind, key=lambda name: aucs[name], default=None)
    signals: dict[str, SignalMetrics] = {}
    for name in sorted(scores, key=lambda name: -aucs[name]):
        signal = _measure(described[name], scores[name], member, draws[name])
        signal.control_auc, signal.excess_over_control = against.get(name, (None, None))
        if signal.access == "blind":
            signal.reason = "a blind baseline gets no verdict: it is what the others are held against"
        elif signal.auc is not None:
            excess = None if best is None else interval(aucs[name] - aucs[best], draws[name]["auc"] - draws[best]["auc"])
            signal.excess_over_blind = excess
            signal.verdict = signal_verdict(signal.auc, excess, floor, signal.excess_over_control)
            if signal.primary:
                signal.statement = signal_statement(name, signal.verdict, signal.auc, excess, best, signal.excess_over_control)
        signals[name] = signal
        evaluation.bands[name] = Curve(GRID, *np.quantile(draws[name][BAND], TAILS, axis=0))
    tried = {n: s.p_value for n, s in signals.items() if s.access not in UNTRIED and s.p_value is not None}
    for name, corrected in holm(tried).items():
        signals[name].p_holm = corrected
    metrics.signals = signals
    metrics.signals_tried = len(tried)
    metrics.best_blind = best
    metrics.noise_floor = Floor(auc=floor.auc, tpr_at_fpr={f"{rate:g}": band for rate, band in floor.tpr.items()})
    metrics.verdict = _run_verdict(signals, best, floor)


def _run_verdict(signals: Mapping[str, SignalMetrics], best: str | None, floor: NoiseFloor) -> RunVerdict:
    judged = {name: s for name, s in signals.items() if s.primary and s.verdict is not None}
    attacks = {name: s.verdict for name, s in judged.items() if s.access != "control" and s.verdict}
    controls = {name: s.verdict for name, s in judged.items() if s.access == "control" and s.verdict}
    auc = signals[best].auc if best else None
    if not attacks:
        return RunVerdict(verdict=None, statement=blind_statement(best, auc, floor))
    word, statement = run_verdict(attacks, controls, f"{best}, AUC {auc.value:.3f}" if auc else None)
    return RunVerdict(verdict=word, statement=statement)


def _measure(described: Described, scores: Floats, member: NDArray[np.bool_], draws: Mapping[str, Floats]) -> SignalMetrics:
    curve = exact_roc(scores, member)
    return SignalMetrics(
        attack=described.attack,
        access=described.access,
        primary=described.primary,
        measures=dict(intervals(curve, draws)),
        auc_delong=delong(scores, member),
        p_value=float(mannwhitneyu(scores[member], scores[~member], alternative="greater").pvalue),
        n_members=int(member.sum()),
        n_non_members=int((~member).sum()),
    )


def _unknown(described: Described, member: NDArray[np.bool_], reason: str) -> SignalMetrics:
    return SignalMetrics(
        attack=described.attack,
        access=described.access,
        primary=described.primary,
        measures={measure.name: None for measure in measures()},
        n_members=int(member.sum()),
        n_non_members=int((~member).sum()),
        reason=reason,
    )


def _warnings(member: NDArray[np.bool_], labelled: NDArray[np.bool_]) -> list[str]:
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
    return warnings


def _scan_warnings(counts: Counts, run: RunRecord) -> list[str]:
    warnings = []
    if run.finished is None:
        warnings.append("The scan has not finished: these are the units committed so far.")
    if counts.expected is not None and run.finished is not None and counts.read < counts.expected:
        warnings.append(f"{counts.read} samples were read where the manifest announces {counts.expected}.")
    if not isinstance(run, ScanRecord):
        return warnings
    if not run.labels_hold:
        patterns, model = ", ".join(run.manifest.valid_for_models), run.job.subject
        warnings.append(f"The labels were made for {patterns}, not for {model}: what is told apart here are no known members.")
    source = run.job.caption_source
    if source != "own":
        warnings.append(f"A control scan: the model was told {source} captions, not the images' own.")
    return warnings


def _subject(run: RunRecord) -> str:
    return run.job.subject if isinstance(run, ScanRecord) else "features"
