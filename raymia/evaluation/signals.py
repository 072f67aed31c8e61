"""What is said of score columns: who can have them, and which of them are judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from raymia.run.columns import SIGNALS, facts
from raymia.run.record import Access, Counts, SignalRecord

LEVELS = (Access.BLACK, Access.GREY, Access.WHITE)
UNTRIED = ("control", "blind")
"""Access of scores that nobody would report as an attack."""
PROBABILITY = "probability"
"""Column of a score table: the probability of membership given all signals, which an evaluation computes."""
ADJUSTED = "adjusted."
"""How the names of signals begin that are held against what an unseen image of the same looks would score."""
APPEARANCE = "control.appearance"
"""What tells members from non-members by how they look: what adjusted signals are held against beside blind baselines."""
COMPUTED = ("blind.", "combined.", ADJUSTED, APPEARANCE)
"""How the names of columns begin that an evaluation computes."""


def signals_of(level: Access, signals: Iterable[SignalRecord]) -> list[str]:
    """Names of the signals that an attacker of this level has; controls are no evidence and left out."""
    return [signal.name for signal in signals if signal.access in LEVELS and level.allows(Access(signal.access))]


def describe_signals(table: pd.DataFrame, access: Mapping[str, str] | None = None) -> list[SignalRecord]:
    """The signals of a table: those that it says it has, or every numeric column that is no fact about the sample.

    `raymia.score` says in its table's attributes what each signal is. Of other columns nothing is known but what `access`
    says of them, so that the rest counts as ``white``: as needing the most. A column ``NAME.part`` beside a column ``NAME`` is
    a part of that signal, and not judged.

    Args:
        access: ``black``, ``grey``, ``white`` or ``control``, by column.
    """
    if SIGNALS in table.attrs:
        return [SignalRecord.model_validate(signal) for signal in table.attrs[SIGNALS] if signal["name"] in table]
    numeric = [
        str(name)
        for name in table.columns
        if name not in {*facts(), PROBABILITY}
        and pd.api.types.is_numeric_dtype(table[name])
        and not str(name).startswith(COMPUTED)
    ]
    described = []
    for name in numeric:
        whole = next((other for other in numeric if name.startswith(f"{other}.")), name)
        needed = Access((access or {}).get(name, Access.WHITE))
        described.append(SignalRecord(name=name, attack=whole, access=str(needed), primary=whole == name))
    return described


def scored_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a score table that have scores: all but those with a `reason` why not."""
    return table[table["reason"].isna()] if "reason" in table else table


def table_counts(table: pd.DataFrame) -> Counts:
    """Counts of a table that no scan made: every row was read, and those with a `reason` could not be scored."""
    reasons = table["reason"].dropna().value_counts() if "reason" in table else pd.Series(dtype=int)
    return Counts(
        read=len(table),
        scored=len(table) - int(reasons.sum()),
        quarantined=int(reasons.sum()),
        by_reason={str(reason): int(count) for reason, count in reasons.items()},
        flagged={},
        expected=None,
    )
