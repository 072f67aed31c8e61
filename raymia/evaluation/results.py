"""What an evaluation finds: the contents of metrics.json, and the tables and curves behind them."""

from __future__ import annotations

import html
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pydantic import BaseModel, computed_field

from raymia.evaluation.controls import LabelShuffle
from raymia.evaluation.frechet import FrechetShift
from raymia.evaluation.generated import GeneratedControl
from raymia.evaluation.intervals import Interval, NoiseFloor
from raymia.evaluation.measures.auc import Auc
from raymia.evaluation.measures.base import tpr_measures
from raymia.evaluation.metric_table import metric_table
from raymia.evaluation.posterior import Reliability
from raymia.evaluation.roc import Floats
from raymia.evaluation.transfer import Transfer
from raymia.evaluation.verdict import Verdict
from raymia.run.record import Counts, RunRecord

GRID = np.unique(np.r_[np.geomspace(1e-4, 1.0, 41), np.linspace(0.0, 1.0, 21)])
"""False-positive rates at which the ROC curve gets a band."""


class SignalMetrics(BaseModel):
    """How well one score column tells members from non-members; null with a reason where that cannot be computed."""

    attack: str
    access: str
    primary: bool
    measures: dict[str, Interval | None]
    """By name of `raymia.evaluation.measures`, in its order."""
    auc_delong: Interval | None = None
    """The same AUC with DeLong's interval, which does not resample."""
    p_value: float | None = None
    """One-sided Mann-Whitney test of members scoring above non-members."""
    p_holm: float | None = None
    """The same, corrected for the number of signals tried; none for blind baselines and controls."""
    excess_over_blind: Interval | None = None
    """AUC minus that of the best blind baseline, paired; of an adjusted signal, or of ``control.appearance`` where that is
    better."""
    control_auc: Interval | None = None
    """AUC of the same signal taken from a control model, where one was scanned."""
    excess_over_control: Interval | None = None
    """AUC minus that, paired."""
    n_members: int
    n_non_members: int
    verdict: Verdict | None = None
    statement: str | None = None
    """The verdict in words, of primary signals."""
    reason: str | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def auc(self) -> Interval | None:
        """The measure of that name."""
        return self.measures[Auc.name]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def tpr_at_fpr(self) -> dict[str, Interval | None]:
        """The measures that are the TPR at some FPR, by the FPR: ``0.01``."""
        return {f"{measure.fpr:g}": self.measures.get(measure.name) for measure in tpr_measures()}


class RunVerdict(BaseModel):
    """The run's verdict as a word and in words."""

    verdict: Verdict | None
    statement: str


class RunMetrics(BaseModel):
    """Contents of metrics.json."""

    counts: Counts
    verdict: RunVerdict
    noise_floor: NoiseFloor | None = None
    signals_tried: int
    best_blind: str | None = None
    """The baseline that `excess_over_blind` is over."""
    transfer: list[Transfer] = []
    """Signal and threshold chosen on other samples, and what they achieve on these."""
    calibrated_on: str | None = None
    """The run that signals, thresholds and probabilities were chosen on; none: a half, or the folds, of this one."""
    reliability: Reliability | None = None
    """Whether probabilities of membership mean what they say."""
    label_shuffle: LabelShuffle | None = None
    embedding_shift: FrechetShift | None = None
    """Between the splits' CLIP embeddings, where a CLIP was configured."""
    control_model: str | None = None
    generated: GeneratedControl | None = None
    """Where signals put images that a model made, where the manifest has any."""
    warnings: list[str]
    signals: dict[str, SignalMetrics]


@dataclass(frozen=True)
class Curve:
    """A ROC curve with its pointwise 95 % band."""

    fpr: Floats
    low: Floats
    high: Floats


class Evaluation(BaseModel):
    """Metrics with the tables they were computed from."""

    model_config = {"arbitrary_types_allowed": True}

    title: str
    run: RunRecord | None
    """Contents of run.json; none for a table that no scan made."""
    metrics: RunMetrics
    table: pd.DataFrame
    """Labelled and unlabelled samples with their scores, blind baselines, combinations and `probability` included."""
    bands: dict[str, Curve] = {}
    """By signal."""

    def _repr_html_(self) -> str:
        """Verdict and primary signals, for notebooks."""
        verdict = self.metrics.verdict
        table = metric_table(self.metrics)
        columns = [column for column in table.columns if column.terminal or column.name == "access"]
        lines = {row.signal: {column.heading: column.text(row) for column in columns[1:]} for row in table.primary}
        notes = "".join(f"<p>Note: {html.escape(warning)}</p>" for warning in self.metrics.warnings)
        html_table = pd.DataFrame.from_dict(lines, orient="index").to_html(escape=True) if lines else ""
        word = html.escape(verdict.verdict or "no verdict")
        return f"<p><strong>{word}</strong>: {html.escape(verdict.statement)}</p>{notes}{html_table}"
