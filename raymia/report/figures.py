"""One style for all figures, and their forms: inline in a page, light or dark, and files of their own."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from raymia.run.ledger import Ledger

INK = "#1d2430"
"""Of text and axes; in a page it becomes the page's own text colour."""
FAINT = "#8a929d"
COLOURS = ("#2f81b7", "#d1603d", "#5c9a3c", "#9a63c8", "#b98a1d", "#c2528b", "#2a9d8f", "#7f6a4f", "#5f7fbf", "#808890")
"""Of series; each stands out on white and on near-black."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names of signals are names, whatever signs they hold
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "grid.color": FAINT,
    "grid.alpha": 0.25,
    "axes.grid": True,
    "axes.axisbelow": True,
}
DOTS_PER_INCH = 160


@dataclass(frozen=True)
class NamedFigure:
    """A figure with what a page says of it."""

    figure: Figure
    alt: str
    """What it shows, in a sentence, for those who do not see it."""


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure in the house style."""
    with mpl.rc_context(STYLE):
        return Figure(figsize=(width_in, height_in), layout="constrained")


def inline_svg(name: str, figure: Figure) -> str:
    """SVG for a page: transparent, its ink the page's text colour, its ids unlike those of other figures."""
    buffer = io.StringIO()
    _save(figure, buffer, name, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    used = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", text))

    def rename(match: re.Match[str]) -> str:
        return f' id="{name}-{match[1]}"' if match[1] in used else ""

    text = re.sub(r' id="([^"]+)"', rename, text)
    return re.sub(r"(url\(#|href=\"#)", rf"\g<1>{name}-", text)


def _save(figure: Figure, buffer: IO[Any], name: str, **options: Any) -> None:
    # matplotlib warns of characters that its fonts lack, and prints them as they stand in a name.
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(buffer, **options)


def write_figures(ledger: Ledger, folder: str, figures: Mapping[str, NamedFigure]) -> None:
    """Write each figure as a PNG and an SVG file on white."""
    for name, named in figures.items():
        for kind in ("png", "svg"):
            buffer = io.BytesIO()
            metadata = {"Date": None} if kind == "svg" else None
            _save(named.figure, buffer, name, format=kind, facecolor="white", dpi=DOTS_PER_INCH, metadata=metadata)
            ledger.write_bytes(f"{folder}/{name}.{kind}", buffer.getvalue())
