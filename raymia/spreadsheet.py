"""Tables for spreadsheets, which take a cell that begins like a formula for one, whoever wrote it."""

from __future__ import annotations

import re

import pandas as pd

BEGINNINGS = "=+-@\uff1d\uff0b\uff0d\uff20"
"""What begins a formula, in the wide forms of East Asian keyboards too."""
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
MARK = "'"
"""Before a cell it says to a spreadsheet that text follows."""


def harmless(text: str) -> str:
    """A text that no spreadsheet takes for a formula: what begins like one is marked as text; numbers stay numbers."""
    first = text.lstrip()[:1]
    if text[:1] in ("\t", "\r", "\n") or (first and first in BEGINNINGS and not NUMBER.fullmatch(text)):
        return f"{MARK}{text}"
    return text


def csv_text(table: pd.DataFrame) -> str:
    """A table as CSV, its texts and headings harmless."""
    cells = table.map(lambda cell: harmless(cell) if isinstance(cell, str) else cell)
    cells.columns = pd.Index([harmless(str(name)) for name in table.columns])
    return str(cells.to_csv(index=False))
