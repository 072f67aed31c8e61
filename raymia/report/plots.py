"""Figures of the report as inline SVG."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from raymia.evaluation.roc import exact_roc

COLOURS = ("#0b6e99", "#c1440e", "#5b8c2a", "#7a3e9d", "#b8860b", "#3d5a80", "#a23b72", "#4a4a4a", "#2a9d8f", "#8d6a9f")


def roc_figure(table: pd.DataFrame, names: list[str], logarithmic: bool) -> str:
    """ROC curves of the named columns over the labelled rows of `table`, with the diagonal of chance."""
    rows = table[table["member"].notna()]
    member = rows["member"].astype(bool).to_numpy()
    floor = 1.0 / max(1, int((~member).sum()))
    figure = Figure(figsize=(5.2, 4.6), layout="constrained")
    axes = figure.subplots()
    for i, name in enumerate(names):
        curve = exact_roc(rows[name].to_numpy(float), member)
        style = "--" if name.startswith("blind.") else "-"
        axes.step(curve.fpr, curve.tpr, style, where="post", label=f"{name} ({curve.auc:.3f})", color=COLOURS[i % len(COLOURS)])
    ramp = np.geomspace(floor, 1, 200) if logarithmic else np.array([0.0, 1.0])
    axes.plot(ramp, ramp, ":", color="#888888", label="chance")
    if logarithmic:
        axes.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor, 1.05))
    axes.set(
        xlabel="false-positive rate", ylabel="true-positive rate", title="ROC, both axes logarithmic" if logarithmic else "ROC"
    )
    axes.legend(fontsize=8, title="signal (AUC)", title_fontsize=8)
    return _svg(figure)


def histogram_figure(table: pd.DataFrame, name: str) -> str:
    """Histogram of one score for members and non-members."""
    rows = table[table["member"].notna()]
    member = rows["member"].astype(bool).to_numpy()
    scores = rows[name].to_numpy(float)
    # The outermost half per cent would otherwise squeeze the rest into one bar.
    low, high = np.quantile(scores, [0.005, 0.995])
    bins = np.linspace(low, high if high > low else low + 1.0, 40)
    figure = Figure(figsize=(4.0, 2.8), layout="constrained")
    axes = figure.subplots()
    for label, rows_of, colour in (("members", member, COLOURS[0]), ("non-members", ~member, COLOURS[1])):
        axes.hist(scores[rows_of].clip(bins[0], bins[-1]), bins=list(bins), alpha=0.55, label=label, color=colour)
    axes.set(title=name, xlabel="score (higher: more likely a member)", ylabel="samples")
    axes.legend(fontsize=8)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
