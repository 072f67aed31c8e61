"""The report of a sweep: a curve per factor, a heat map per pair, and the same by the images' original resolution."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from raymia.evaluation.factors import ALL, TIMESTEP, FactorAnalysis, FactorRow, along, budgets, value_text
from raymia.evaluation.measures.base import measures
from raymia.report.figures import COLOURS, FAINT, STYLE, NamedFigure, inline_svg, new_figure, write_figures
from raymia.report.page import REPORT, REPORT_FILE, render_page
from raymia.run.ledger import Ledger
from raymia.spreadsheet import csv_text

RESULTS_FILE = "factors.json"
BUDGET = "budget"


def write_sweep_report(ledger: Ledger, analysis: FactorAnalysis, title: str) -> str:
    """Write results, page, figures and table into the sweep's directory; return where the page is."""
    sections, figures = sweep_figures(analysis)
    fields = [factor.field for factor in analysis.factors]
    ledger.write_text(RESULTS_FILE, analysis.model_dump_json(indent=2) + "\n")
    page = render_page(
        "sweep.html",
        title=title,
        value_text=value_text,
        analysis=analysis,
        measures=measures(),
        fields=fields,
        sections=sections,
        figures=figures,
        svg={name: inline_svg(name.replace(".", "-"), named.figure) for name, named in figures.items()},
    )
    ledger.write_text(REPORT_FILE, page)
    write_figures(ledger, f"{REPORT}/figures", figures)
    ledger.write_text(f"{REPORT}/tables/factors.csv", csv_text(table(analysis.rows, fields)))
    return f"{ledger.run}/{REPORT_FILE}"


def table(rows: Sequence[FactorRow], fields: Sequence[str]) -> pd.DataFrame:
    """One line per row of the analysis."""
    return pd.DataFrame(
        [
            {"attack": row.attack, "signal": row.signal}
            | {field: row.point.get(field) for field in fields}
            | {
                "forwards": row.forwards,
                "images": row.stratum,
                "n_members": row.n_members,
                "n_non_members": row.n_non_members,
            }
            | {
                f"{measure.column}{end}": getattr(row.measures[measure.name], bound)
                for measure in measures()
                for end, bound in ENDS.items()
            }
            for row in rows
        ]
    )


ENDS = {"": "value", "_low": "low", "_high": "high"}


def sweep_figures(analysis: FactorAnalysis) -> tuple[dict[str, str], dict[str, NamedFigure]]:
    """Headings by section, and figures by name; a figure's name begins with its section."""
    sections: dict[str, str] = {}
    figures: dict[str, NamedFigure] = {}
    with mpl.rc_context(STYLE):
        for number, factor in enumerate(analysis.factors):
            section = f"factor{number}"
            curves = along(analysis, factor.field)
            if not curves:
                continue
            sections[section] = factor.field
            alt = f"AUC against {factor.field}, with 95 % intervals, of {', '.join(curves)}."
            figures[f"{section}.all"] = NamedFigure(_curve_figure(curves, factor.field, "all images"), alt)
            by_attack: dict[str, dict[str, list[tuple[Any, FactorRow]]]] = {}
            for stratum in analysis.strata if factor.field != TIMESTEP else ():
                for attack, points in along(analysis, factor.field, stratum).items():
                    by_attack.setdefault(attack, {})[stratum] = points
            for attack, strata in by_attack.items():
                alt = f"AUC of {attack} against {factor.field} by the images' original shorter side."
                figure = _curve_figure(strata, factor.field, f"{attack}, by original shorter side")
                figures[f"{section}.{_slug(attack)}"] = NamedFigure(figure, alt)
        curves = budgets(analysis)
        if curves:
            sections[BUDGET] = "What a budget buys"
            alt = f"AUC against forwards per image, with 95 % intervals, of {', '.join(curves)}."
            figures[f"{BUDGET}.all"] = NamedFigure(_budget_figure(curves), alt)
        for number, (one, other) in enumerate(itertools.combinations(analysis.factors, 2)):
            section = f"pair{number}"
            for attack in dict.fromkeys(row.attack for row in analysis.rows):
                grid = _grid(analysis, attack, one.field, other.field)
                if grid is None:
                    continue
                sections[section] = f"{one.field} and {other.field}"
                alt = f"AUC of {attack} by {one.field} and {other.field}."
                figure = _heat_map(grid, attack, one.field, other.field)
                figures[f"{section}.{_slug(attack)}"] = NamedFigure(figure, alt)
    return sections, figures


def _curve_figure(curves: dict[str, list[tuple[Any, FactorRow]]], field: str, title: str) -> Figure:
    figure = new_figure(4.9, 4.0)
    axes = figure.subplots()
    values = list(dict.fromkeys(value_text(value) for points in curves.values() for value, _ in points))
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for c in curves.values() for value, _ in c)
    for i, (name, points) in enumerate(curves.items()):
        # Side by side, so that bars of equal values do not hide each other.
        shift = 0.0 if numeric else (i - (len(curves) - 1) / 2) * 0.06
        x = [float(value) if numeric else values.index(value_text(value)) + shift for value, _ in points]
        aucs = np.array([[row.auc.value, row.auc.low, row.auc.high] for _, row in points]).T
        errors = np.clip([aucs[0] - aucs[1], aucs[2] - aucs[0]], 0.0, None)
        axes.errorbar(x, aucs[0], yerr=errors, fmt="o-", label=name, color=COLOURS[i % len(COLOURS)], capsize=2, markersize=4)
    axes.axhline(0.5, linestyle=":", color=FAINT)
    if numeric:
        axes.set_xticks(sorted({float(value) for points in curves.values() for value, _ in points}), minor=False)
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.set_xticks(range(len(values)), values)
    axes.set(xlabel=field, ylabel="AUC (95 % interval)", title=title)
    figure.legend(loc="outside lower center", ncols=min(3, len(curves)))
    return figure


def _budget_figure(curves: dict[str, list[tuple[int, FactorRow]]]) -> Figure:
    """Every setting as a point, the best for its cost or less joined."""
    figure = new_figure(6.4, 4.4)
    axes = figure.subplots()
    for i, (attack, points) in enumerate(curves.items()):
        colour = COLOURS[i % len(COLOURS)]
        x = [forwards for forwards, _ in points]
        aucs = np.array([[row.auc.value, row.auc.low, row.auc.high] for _, row in points]).T
        errors = np.clip([aucs[0] - aucs[1], aucs[2] - aucs[0]], 0.0, None)
        axes.errorbar(x, aucs[0], yerr=errors, fmt="o", label=attack, color=colour, capsize=2, markersize=4)
        axes.plot(x, np.maximum.accumulate(aucs[0]), color=colour, drawstyle="steps-post", linewidth=1)
    axes.axhline(0.5, linestyle=":", color=FAINT)
    axes.set_xscale("log")
    ticks: list[int] = []
    for forwards in sorted({forwards for points in curves.values() for forwards, _ in points}):
        if not ticks or forwards >= 1.3 * ticks[-1]:  # or the numbers run into each other
            ticks.append(forwards)
    axes.set_xticks(ticks, minor=False)
    axes.minorticks_off()
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="forwards of the denoiser per image, alone", ylabel="AUC (95 % interval)", title="What a budget buys")
    figure.legend(loc="outside lower center", ncols=min(4, len(curves)))
    return figure


Grid = dict[str, dict[str, FactorRow]]
"""Rows by the value of one factor, then by that of another."""


def _grid(analysis: FactorAnalysis, attack: str, one: str, other: str) -> Grid | None:
    grid: Grid = {}
    for row in analysis.rows:
        held = all(row.point[f] == v for f, v in analysis.base.items() if f not in (one, other) and f in row.point)
        wanted = {one, other} <= set(row.point) and (TIMESTEP in (one, other) or TIMESTEP not in row.point)
        if row.attack == attack and row.stratum == ALL and held and wanted:
            grid.setdefault(value_text(row.point[one]), {})[value_text(row.point[other])] = row
    full = len(grid) > 1 and all(len(line) > 1 for line in grid.values())
    return grid if full else None


def _heat_map(grid: Grid, attack: str, one: str, other: str) -> Figure:
    columns = list(dict.fromkeys(value for line in grid.values() for value in line))
    figure = new_figure(1.8 + 1.15 * len(columns), 1.5 + 0.62 * len(grid))
    axes = figure.subplots()
    values = [[line[value].auc.value if value in line else np.nan for value in columns] for line in grid.values()]
    shade = axes.imshow(values, cmap="RdBu_r", vmin=0, vmax=1, aspect="auto")
    for i, line in enumerate(grid.values()):
        for value, row in line.items():
            text = f"{row.auc.value:.3f}\n[{row.auc.low:.3f}, {row.auc.high:.3f}]"
            colour = "white" if abs(row.auc.value - 0.5) > 0.32 else "#222222"
            axes.text(columns.index(value), i, text, ha="center", va="center", fontsize=7.5, color=colour)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(grid)), list(grid))
    axes.grid(visible=False)
    axes.set(xlabel=other, ylabel=one, title=f"{attack}: AUC")
    figure.colorbar(shade, ax=axes)
    return figure


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)
