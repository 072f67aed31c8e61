"""What each factor of a sweep does to each attack: AUC and TPR per setting, also by the images' original resolution."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, computed_field

from raymia.errors import ConfigError
from raymia.evaluation.bootstrap import bootstrap
from raymia.evaluation.intervals import Interval
from raymia.evaluation.measures.auc import Auc
from raymia.evaluation.measures.base import intervals, measures, statistics
from raymia.evaluation.measures.tpr_at_1_percent import TprAtOnePercent
from raymia.evaluation.metrics import evaluate_run
from raymia.evaluation.results import Evaluation
from raymia.evaluation.roc import exact_roc
from raymia.evaluation.signals import UNTRIED
from raymia.run.ledger import Ledger
from raymia.run.record import SignalRecord
from raymia.run.sweep import SWEEP_FILE, CellRecord, Factor, SweepRecord

TIMESTEP = "timestep"
"""A factor of every attack that has a signal per timestep; varied within each scan."""
ALL = "all images"
MINIMUM = 20
"""Members and non-members that a stratum needs to be shown."""
STRATA = 3


class FactorRow(BaseModel):
    """One attack at one setting on one part of the images."""

    attack: str
    """As the job names it, without its variant."""
    signal: str
    point: dict[str, Any]
    """Value by factor."""
    forwards: int
    """Forwards of the denoiser per image of the attack at this setting, alone."""
    stratum: str
    n_members: int
    n_non_members: int
    measures: dict[str, Interval]
    """By name of `raymia.evaluation.measures`, in its order."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def auc(self) -> Interval:
        """The measure of that name."""
        return self.measures[Auc.name]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def tpr_at_1_percent_fpr(self) -> Interval:
        """The measure `tpr_at_1_percent`."""
        return self.measures[TprAtOnePercent.name]


class FactorAnalysis(BaseModel):
    """A sweep's results."""

    factors: list[Factor]
    base: dict[str, Any]
    """First value of each factor: where the others are held while one is looked at."""
    strata: list[str]
    """Thirds of the images by their original shorter side, smallest first."""
    rows: list[FactorRow]
    runs: list[str]
    """Run directory of each scan, relative to the sweep's."""


def analyse(folder: str, seed: int = 0) -> tuple[FactorAnalysis, dict[str, Evaluation]]:
    """Evaluate every scan of a sweep.

    Args:
        folder: the sweep's directory.

    Returns:
        The analysis, and each scan's own evaluation by its run directory.

    Raises:
        ConfigError: there is no sweep.
    """
    text = Ledger(folder).read_text(SWEEP_FILE)
    if text is None:
        raise ConfigError(f"{folder}: no {SWEEP_FILE}; give the directory of a sweep made by `raymia sweep`")
    record = SweepRecord.model_validate_json(text)
    evaluations = {cell.run: evaluate_run(Ledger(f"{folder}/{cell.run}"), seed) for cell in record.cells}
    edges = _edges(next(iter(evaluations.values())).table)
    rows: list[FactorRow] = []
    for cell in record.cells:
        rows += _rows(evaluations[cell.run], cell, edges, seed)
    factors = record.factors
    timesteps = sorted({row.point[TIMESTEP] for row in rows if TIMESTEP in row.point})
    base = {factor.field: factor.values[0] for factor in factors}
    if len(timesteps) > 1:
        factors = [*factors, Factor(field=TIMESTEP, values=timesteps)]
    strata = [name for name, _ in _strata(np.empty(0), edges)]
    analysis = FactorAnalysis(factors=factors, base=base, strata=strata, rows=rows, runs=list(evaluations))
    return analysis, evaluations


def value_text(value: Any) -> str:
    """A factor's value as people write it: a list without its brackets."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def along(analysis: FactorAnalysis, field: str, stratum: str = ALL) -> dict[str, list[tuple[Any, FactorRow]]]:
    """The rows of each attack along one factor, the others at their first values, in the factor's order.

    Args:
        field: the factor.
        stratum: the images to look at.

    Returns:
        Value and row, by attack; attacks that the factor does not touch, or that have one value only, are left out.
    """
    values = next(factor.values for factor in analysis.factors if factor.field == field)
    curves: dict[str, list[tuple[Any, FactorRow]]] = {}
    for row in analysis.rows:
        at_base = all(row.point[name] == value for name, value in analysis.base.items() if name != field and name in row.point)
        if row.stratum == stratum and field in row.point and at_base and (field == TIMESTEP or TIMESTEP not in row.point):
            curves.setdefault(row.attack, []).append((row.point[field], row))
    return {attack: sorted(rows, key=lambda pair: values.index(pair[0])) for attack, rows in curves.items() if len(rows) > 1}


def _rows(evaluation: Evaluation, cell: CellRecord, edges: Sequence[float], seed: int) -> Iterator[FactorRow]:
    table = evaluation.table[evaluation.table["member"].notna()]
    member = table["member"].astype(bool).to_numpy()
    signals = [signal for signal in evaluation.run.signals if signal.access not in UNTRIED] if evaluation.run else []
    for stratum, chosen in [(ALL, np.ones(len(table), bool)), *_strata(_shorter_side(table), edges)]:
        labels = member[chosen]
        if min(labels.sum(), (~labels).sum()) < MINIMUM:
            continue
        primary = [s for s in signals if s.primary]
        shown = [s for s in signals if _timestep(s) is not None and stratum == ALL]
        columns = {s.name: table.loc[chosen, s.name].to_numpy(float) for s in (*primary, *shown)}
        draws = bootstrap(columns, labels, statistics(measures()), seed)
        for signal in (*primary, *shown):
            name, variant = signal.name, cell.variants.get(signal.attack)
            timestep = {} if signal.primary else {TIMESTEP: _timestep(signal)}
            yield FactorRow(
                attack=variant.attack if variant else signal.attack,
                signal=name,
                point={**cell.point, **(variant.point if variant else {}), **timestep},
                forwards=signal.cost.forwards if signal.cost else 0,
                stratum=stratum,
                n_members=int(labels.sum()),
                n_non_members=int((~labels).sum()),
                measures=intervals(exact_roc(columns[name], labels), draws[name]),
            )


def budgets(analysis: FactorAnalysis) -> dict[str, list[tuple[int, FactorRow]]]:
    """Forwards and row of each attack's settings, fewest first; fields that need scans of their own at their first values.

    Nothing where no attack has settings of different costs.
    """
    apart = {
        factor.field: factor.values[0] for factor in analysis.factors if factor.attack is None and factor.field != TIMESTEP
    }
    curves: dict[str, list[tuple[int, FactorRow]]] = {}
    for row in analysis.rows:
        if row.stratum == ALL and TIMESTEP not in row.point and all(row.point[name] == value for name, value in apart.items()):
            curves.setdefault(row.attack, []).append((row.forwards, row))
    if all(len({forwards for forwards, _ in points}) == 1 for points in curves.values()):
        return {}
    return {attack: sorted(points, key=lambda point: point[0]) for attack, points in curves.items()}


def _timestep(signal: SignalRecord) -> int | None:
    """The timestep of a signal ``ATTACK.t=N``; none of others, and none of parts such as ``ATTACK.METRIC.t=N``."""
    match = re.fullmatch(re.escape(signal.attack) + r"\.t=(\d+)", signal.name)
    return int(match[1]) if match else None


def _shorter_side(table: pd.DataFrame) -> NDArray[np.float64]:
    return table[["width", "height"]].min(axis=1).to_numpy(float)


def _edges(table: pd.DataFrame) -> list[float]:
    inner = np.quantile(_shorter_side(table), np.arange(1, STRATA) / STRATA)
    return sorted(set(map(float, inner)))


def _strata(sides: NDArray[np.float64], edges: Sequence[float]) -> list[tuple[str, NDArray[np.bool_]]]:
    place = np.searchsorted(edges, sides, side="right")
    names = [f"below {edge:.0f} px" for edge in edges[:1]]
    names += [f"{low:.0f} to {high:.0f} px" for low, high in pairwise(edges)]
    names += [f"{edge:.0f} px and more" for edge in edges[-1:]]
    return [(name, place == i) for i, name in enumerate(names)]
