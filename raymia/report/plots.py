"""The figures of a run's report."""

from __future__ import annotations

import re
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from raymia.evaluation.posterior import Reliability
from raymia.evaluation.results import Evaluation, SignalMetrics
from raymia.evaluation.roc import exact_roc
from raymia.evaluation.signals import UNTRIED
from raymia.report.figures import COLOURS, FAINT, STYLE, NamedFigure, new_figure

CURVES = 6
"""ROC curves in one figure; more could not be told apart. All of them are in the tables."""
CURVE_POINTS = 2000


def run_figures(evaluation: Evaluation) -> dict[str, NamedFigure]:
    """Every figure that the evaluation has data for, by name."""
    metrics = evaluation.metrics
    measured = {name: signal for name, signal in metrics.signals.items() if signal.auc is not None}
    primary = [name for name, signal in measured.items() if signal.primary]
    figures: dict[str, NamedFigure] = {}
    if not primary:
        return figures
    with mpl.rc_context(STYLE):
        shown = _best_and_blind(measured, primary)
        for name, logarithmic in (("roc", False), ("roc_log", True)):
            axes = "both axes logarithmic" if logarithmic else "linear axes"
            alt = f"ROC curves with 95 % bands, {axes}, of {', '.join(shown)}; their rates are in the table of signals."
            figures[name] = NamedFigure(roc_figure(evaluation, shown, logarithmic), alt)
        figures["auc"] = NamedFigure(
            auc_figure(evaluation, primary), "AUC with 95 % intervals of every primary signal beside the blind baselines."
        )
        by_timestep = timestep_series(measured)
        if by_timestep:
            figures["timesteps"] = NamedFigure(
                timestep_figure(evaluation, by_timestep),
                f"AUC against the timestep, with 95 % bands, of {', '.join(by_timestep)}.",
            )
        if metrics.reliability is not None:
            figures["reliability"] = NamedFigure(
                reliability_figure(metrics.reliability), "Share of members against the predicted probability of membership."
            )
        for name in primary:
            slug = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)
            figures[f"histogram.{slug}"] = NamedFigure(
                histogram_figure(evaluation, name), f"Histogram of {name} for members and non-members."
            )
    return figures


def roc_figure(evaluation: Evaluation, names: Sequence[str], logarithmic: bool) -> Figure:
    """ROC curves of the named columns with pointwise 95 % bands, and the diagonal of chance."""
    rows = evaluation.table[evaluation.table["member"].notna()]
    member = rows["member"].astype(bool).to_numpy()
    floor = 1.0 / max(1, int((~member).sum()))
    figure = new_figure(5.4, 4.8)
    axes = figure.subplots()
    for i, name in enumerate(names):
        curve = exact_roc(rows[name].to_numpy(float), member)
        thinned = np.unique(np.linspace(0, len(curve.fpr) - 1, CURVE_POINTS).astype(int))
        colour = COLOURS[i % len(COLOURS)]
        style = "--" if name.startswith("blind.") else "-"
        label = f"{name} ({curve.auc:.3f})"
        axes.step(curve.fpr[thinned], curve.tpr[thinned], style, where="post", label=label, color=colour, linewidth=1.4)
        band = evaluation.bands[name]
        axes.fill_between(band.fpr, band.low, band.high, color=colour, alpha=0.13, linewidth=0)
    ramp = np.geomspace(floor, 1, 200) if logarithmic else np.array([0.0, 1.0])
    axes.plot(ramp, ramp, ":", color=FAINT, label="chance")
    if logarithmic:
        axes.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor, 1.05))
        for axis in (axes.xaxis, axes.yaxis):
            # Matplotlib writes powers of ten in mathematics, which is switched off.
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("{x:g}" if floor > 0.1 else NullFormatter())  # or there is no number but 1
    else:
        axes.set(xlim=(0, 1), ylim=(0, 1.01))
    title = "ROC, both axes logarithmic" if logarithmic else "ROC"
    axes.set(xlabel="false-positive rate", ylabel="true-positive rate", title=title)
    axes.legend(title="signal (AUC)", title_fontsize=8, loc="lower right")
    return figure


def auc_figure(evaluation: Evaluation, names: Sequence[str]) -> Figure:
    """AUC of each primary signal with its interval; blind baselines marked, the noise floor shaded."""
    metrics = evaluation.metrics
    figure = new_figure(5.4, 1.1 + 0.28 * len(names))
    axes = figure.subplots()
    colours = {"blind": COLOURS[1], "control": COLOURS[9]}
    for place, name in enumerate(reversed(names)):
        signal = metrics.signals[name]
        assert signal.auc is not None
        low, high = signal.auc.value - signal.auc.low, signal.auc.high - signal.auc.value
        colour = colours.get(signal.access, COLOURS[0])
        axes.barh(place, signal.auc.value - 0.5, left=0.5, height=0.62, color=colour, alpha=0.75)
        axes.errorbar(signal.auc.value, place, xerr=[[low], [high]], color=mpl.rcParams["text.color"], capsize=2, linewidth=1)
    if metrics.noise_floor:
        axes.axvspan(*metrics.noise_floor.auc, color=FAINT, alpha=0.25, linewidth=0, label="noise floor")
    handles = [mpl.patches.Patch(color=COLOURS[0], label="attack"), mpl.patches.Patch(color=COLOURS[1], label="blind baseline")]
    handles += [mpl.patches.Patch(color=COLOURS[9], label="control"), mpl.patches.Patch(color=FAINT, label="noise floor")]
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set(xlabel="AUC (95 % interval)", title="Attacks against blind baselines")
    axes.grid(visible=False, axis="y")
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def timestep_series(measured: dict[str, SignalMetrics]) -> dict[str, list[tuple[int, str]]]:
    """Timestep and signal of every family ``NAME.t=N`` with more than one timestep, by NAME, in order of the timestep."""
    families: dict[str, list[tuple[int, str]]] = {}
    for name in measured:
        match = re.fullmatch(r"(.+)\.t=(\d+)", name)
        if match:
            families.setdefault(match[1], []).append((int(match[2]), name))
    return {family: sorted(series) for family, series in sorted(families.items()) if len(series) > 1}


def timestep_figure(evaluation: Evaluation, families: dict[str, list[tuple[int, str]]]) -> Figure:
    """AUC against the timestep, a line with its 95 % band for each family of signals."""
    figure = new_figure(5.4, 4.2)
    axes = figure.subplots()
    for i, (family, series) in enumerate(families.items()):
        intervals = [evaluation.metrics.signals[name].auc for _, name in series]
        timesteps = [t for t, _ in series]
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(timesteps, [auc.value for auc in intervals if auc], "o-", label=family, color=colour, markersize=3.5)
        low, high = [auc.low for auc in intervals if auc], [auc.high for auc in intervals if auc]
        axes.fill_between(timesteps, low, high, color=colour, alpha=0.13, linewidth=0)
    axes.axhline(0.5, linestyle=":", color=FAINT)
    axes.set(xlabel="timestep", ylabel="AUC (95 % band)", title="AUC against noise level")
    figure.legend(loc="outside lower center", ncols=min(3, len(families)))
    return figure


def reliability_figure(reliability: Reliability) -> Figure:
    """Observed share of members against predicted probability, with exact intervals."""
    figure = new_figure(4.4, 4.2)
    axes = figure.subplots()
    values = np.array([[point.value, point.low, point.high] for point in reliability.observed]).T
    axes.plot([0, 1], [0, 1], ":", color=FAINT, label="as predicted")
    errors = np.clip([values[0] - values[1], values[2] - values[0]], 0.0, None)
    axes.errorbar(
        reliability.predicted, values[0], yerr=errors, fmt="o-", color=COLOURS[0], capsize=2, markersize=4, label="observed"
    )
    axes.set(
        xlabel="predicted probability of membership", ylabel="share of members", title="Do probabilities mean what they say?"
    )
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.legend(loc="upper left")
    return figure


def histogram_figure(evaluation: Evaluation, name: str) -> Figure:
    """Histogram of one score for members and non-members."""
    rows = evaluation.table[evaluation.table["member"].notna()]
    member = rows["member"].astype(bool).to_numpy()
    scores = rows[name].to_numpy(float)
    # The outermost half per cent would otherwise squeeze the rest into one bar.
    low, high = np.quantile(scores, [0.005, 0.995])
    bins = np.linspace(low, high if high > low else low + 1.0, 40)
    figure = new_figure(3.9, 2.7)
    axes = figure.subplots()
    for label, rows_of, colour in (("members", member, COLOURS[0]), ("non-members", ~member, COLOURS[1])):
        axes.hist(scores[rows_of].clip(bins[0], bins[-1]), bins=list(bins), alpha=0.6, label=label, color=colour)
    axes.set(title=name, xlabel="score (higher: more likely a member)", ylabel="samples")
    axes.legend()
    return figure


def _best_and_blind(measured: dict[str, SignalMetrics], primary: Sequence[str]) -> list[str]:
    """The best attacks and the best blind baseline; signals are ordered by AUC."""
    attacks = [name for name in primary if measured[name].access not in UNTRIED]
    blind = [name for name in primary if measured[name].access == "blind"]
    return attacks[: CURVES - 1] + blind[:1] if attacks else blind[:CURVES] or list(primary[:CURVES])
