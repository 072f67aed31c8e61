"""From scores to metrics: of a run directory, of a plain table, or of a data set before any model is attacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raymia.data.clusters import join_clusters
from raymia.evaluation.adjusted import adjusted_warnings
from raymia.evaluation.beforehand import Beforehand, choose_beforehand
from raymia.evaluation.controls import compare_with_control, label_shuffle
from raymia.evaluation.embeddings import embeddings
from raymia.evaluation.fitted import FittedScores, fit_scores
from raymia.evaluation.frechet import FrechetShift, frechet_shift
from raymia.evaluation.generated import compare_generated, generated_warnings
from raymia.evaluation.labelled import LabelledSamples, check_table, generated_rows
from raymia.evaluation.measuring import measure_scores, unmeasured
from raymia.evaluation.posterior import PRIOR
from raymia.evaluation.results import Evaluation, RunMetrics, RunVerdict
from raymia.evaluation.signals import PROBABILITY, UNTRIED, describe_signals, scored_rows, table_counts
from raymia.evaluation.warnings import baseline_warnings, control_warnings, label_warnings, scan_warnings, shuffle_warnings
from raymia.run.columns import GENERATED
from raymia.run.ledger import Ledger
from raymia.run.record import Counts, RunRecord, ScanRecord, SignalRecord

ONE_CLASS = "needs scored members and non-members"


def evaluate_run(
    ledger: Ledger, seed: int = 0, prior: float = PRIOR, calibrate_on: Ledger | None = None, blind_only: bool = False
) -> Evaluation:
    """Evaluate what a run directory holds.

    Args:
        seed: of folds, halves, shuffled labels and bootstrap draws.
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
    evaluation.metrics.warnings += scan_warnings(counts, run)
    return evaluation


def evaluate_table(
    table: pd.DataFrame,
    signals: Sequence[SignalRecord] | None = None,
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
            statistics, `clip_embedding`; `cluster` for near-duplicates. Missing baselines' columns leave them out. Rows with a
            `reason` could not be scored; they are counted and take no further part. Rows that are `generated` are a control:
            they are held against the non-members, and take no further part.
        signals: descriptions of the score columns; by default every further numeric column, see `describe_signals`.
        title: names the table in errors and on the page.
        seed: of folds, halves, shuffled labels and bootstrap draws.
        prior: share of members among the images in question.
        calibrate_on: name and score table of samples to choose on, instead of on parts of this one.
        control: name of a control model and its scores of the same samples, matched by split, shard and key.
        counts: of the scan; by default the table's rows.
        access: of signals by name, where `signals` are not given: ``black``, ``grey``, ``white`` or ``control``.

    Raises:
        ConfigError: no `member` column, a score that is not finite, or signals that `calibrate_on` lacks.
    """
    signals = describe_signals(table, access) if signals is None else signals
    counts = counts or table_counts(table)
    table = scored_rows(table).reset_index(drop=True)
    check_table(table, signals, title)
    generated = generated_rows(table)
    known = table["member"].notna().to_numpy() & ~generated
    labelled = LabelledSamples.of_table(table, signals, seed)
    unlabelled = ~known & ~generated
    warnings = label_warnings(labelled, int(unlabelled.sum()))
    if not labelled.both_classes:
        return Evaluation(title=title, run=None, metrics=_without_verdict(labelled, counts, warnings), table=table)
    fitted = fit_scores(labelled, table[~known])
    shuffle = label_shuffle(labelled)
    beforehand = choose_beforehand(labelled, table[unlabelled], prior, calibrate_on)
    compared = compare_with_control(labelled, control, fitted.adjusted)
    others = table[~known].assign(**fitted.others)
    made = compare_generated(fitted.beside(labelled), others[generated[~known]])
    measured = measure_scores(labelled, fitted, compared)
    metrics = RunMetrics(
        counts=counts,
        verdict=measured.verdict,
        noise_floor=measured.floor,
        signals_tried=measured.signals_tried,
        best_blind=measured.best_blind,
        transfer=list(beforehand.transfer),
        calibrated_on=beforehand.calibrated_on,
        reliability=beforehand.reliability,
        label_shuffle=shuffle,
        embedding_shift=_embedding_shift(labelled),
        control_model=compared.model,
        generated=made,
        warnings=[
            *warnings,
            *baseline_warnings(labelled.rows),
            *adjusted_warnings(labelled, table),
            *shuffle_warnings(shuffle),
            *control_warnings(compared),
            *generated_warnings(made),
        ],
        signals=measured.signals,
    )
    table = _with_scores(table, known, unlabelled, beforehand, fitted)
    return Evaluation(title=title, run=None, metrics=metrics, table=table, bands=measured.bands)


def _load(ledger: Ledger) -> tuple[RunRecord, Counts, pd.DataFrame]:
    run = ledger.require_run()
    ledger.check(run)
    counts = ledger.counts(run.expected)
    table = join_clusters(ledger.frame(), ledger.clusters())
    return run, counts, table.assign(**{GENERATED: table["split"].isin(run.manifest.generated)})


def _subject(run: RunRecord) -> str:
    return run.job.subject if isinstance(run, ScanRecord) else "features"


def _without_verdict(labelled: LabelledSamples, counts: Counts, warnings: list[str]) -> RunMetrics:
    """Metrics where members or non-members are missing."""
    return RunMetrics(
        counts=counts,
        verdict=RunVerdict(verdict=None, statement=f"No verdict: it {ONE_CLASS}; the scores are in the table."),
        signals_tried=sum(signal.access not in UNTRIED for signal in labelled.signals.values()),
        warnings=warnings,
        signals=unmeasured(labelled, ONE_CLASS),
    )


def _embedding_shift(labelled: LabelledSamples) -> FrechetShift | None:
    vectors = embeddings(labelled.rows) if labelled.can_fold else None
    return None if vectors is None else frechet_shift(vectors, labelled.member, labelled.seed)


def _with_scores(
    table: pd.DataFrame, known: NDArray[np.bool_], unlabelled: NDArray[np.bool_], beforehand: Beforehand, fitted: FittedScores
) -> pd.DataFrame:
    """The table with what was computed; nothing for samples of unknown membership but probabilities and adjusted scores.

    Args:
        known: (rows,) whose membership is.
        unlabelled: (rows,) whose membership is in question.
    """
    computed: dict[str, NDArray[np.float64]] = {}
    if beforehand.labelled is not None:
        computed[PROBABILITY] = np.full(len(table), np.nan)
        computed[PROBABILITY][known], computed[PROBABILITY][unlabelled] = beforehand.labelled, beforehand.unlabelled
    for name, scores in fitted.columns.items():
        computed[name] = np.full(len(table), np.nan)
        computed[name][known] = scores
        if name in fitted.others:
            computed[name][~known] = fitted.others[name]
    return table.assign(**computed)
