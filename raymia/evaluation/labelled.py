"""The one thing that an evaluation is about: samples whose membership is known, with their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raymia.errors import ConfigError
from raymia.evaluation.crossfit import Groups, can_fold, cluster_groups
from raymia.evaluation.roc import Floats
from raymia.evaluation.signals import LEVELS, signals_of
from raymia.run.columns import GENERATED
from raymia.run.record import Access, SignalRecord


@dataclass(frozen=True)
class LabelledSamples:
    """Samples whose membership is known.

    Attributes:
        rows: a table of n rows: captions, image statistics, embeddings and whatever else is known of each.
        member: (n,) labels.
        columns: (n,) scores by signal, higher meaning member.
        signals: what is said of each of these columns, by its name.
        groups: (n,) cluster of near-duplicates that each stands in; none where nothing is known of any.
        seed: of folds, halves, shuffled labels and bootstrap draws.
    """

    rows: pd.DataFrame
    member: NDArray[np.bool_]
    columns: Mapping[str, Floats] = field(default_factory=dict)
    signals: Mapping[str, SignalRecord] = field(default_factory=dict)
    groups: Groups = None
    seed: int = 0

    @classmethod
    def of_table(cls, table: pd.DataFrame, signals: Sequence[SignalRecord], seed: int = 0) -> LabelledSamples:
        """The labelled rows of a table that `check_table` has passed.

        Args:
            table: `member` (true, false or missing), a column per signal, perhaps `cluster`.
        """
        known = table["member"].notna().to_numpy() & ~generated_rows(table)
        rows = table if known.all() else table[known]
        return cls(
            rows=rows,
            member=rows["member"].astype(bool).to_numpy(),
            columns={signal.name: rows[signal.name].to_numpy(float) for signal in signals},
            signals={signal.name: signal for signal in signals},
            groups=cluster_groups(rows),
            seed=seed,
        )

    @property
    def n_members(self) -> int:
        """Of the n."""
        return int(self.member.sum())

    @property
    def n_non_members(self) -> int:
        """Of the n."""
        return int((~self.member).sum())

    @property
    def both_classes(self) -> bool:
        """Whether there are members and non-members, without which nothing can be measured."""
        return bool(self.member.any() and not self.member.all())

    @property
    def can_fold(self) -> bool:
        """Whether both classes are large enough for folds, without which nothing can be fitted."""
        return can_fold(self.member)

    def signals_of(self, level: Access) -> list[str]:
        """Names of the signals that an attacker of this level has; controls are no evidence and left out."""
        return signals_of(level, self.signals.values())

    def widest_signals(self) -> list[str]:
        """Names of the signals of the widest access level that adds any; none where there are no attacks' signals."""
        return next((names for level in reversed(LEVELS) if (names := self.signals_of(level))), [])

    def features(self, names: Sequence[str]) -> Floats:
        """(n, signals) scores of some signals beside each other."""
        return np.column_stack([self.columns[name] for name in names])

    def part(self, chosen: NDArray[np.bool_]) -> LabelledSamples:
        """Some of the samples with their scores; their `rows` have no columns, so that no embedding is copied.

        Args:
            chosen: (n,) true for those.
        """
        return replace(
            self,
            rows=self.rows[[]][chosen],
            member=self.member[chosen],
            columns={name: column[chosen] for name, column in self.columns.items()},
            groups=None if self.groups is None else self.groups[chosen],
        )

    def with_shuffled_labels(self) -> LabelledSamples:
        """The same samples, as many of them members, under labels that mean nothing."""
        return replace(self, member=np.random.default_rng(self.seed).permutation(self.member))


def generated_rows(table: pd.DataFrame) -> NDArray[np.bool_]:
    """(rows,) which are images that a model made, as a control; none where the table does not say.

    Raises:
        ConfigError: one is said to be a member, too.
    """
    if GENERATED not in table:
        return np.zeros(len(table), bool)
    generated = table[GENERATED].eq(True).to_numpy(bool)
    both = generated & table["member"].eq(True).to_numpy(bool)
    if both.any():
        raise ConfigError(f"row {int(np.flatnonzero(both)[0])}: is a member and `{GENERATED}`; expected one of the two")
    return generated


def check_table(table: pd.DataFrame, signals: Sequence[SignalRecord], title: str) -> None:
    """Refuse a score table that cannot be evaluated.

    Args:
        title: names the table in the error.

    Raises:
        ConfigError: a column is missing, a label is neither true nor false nor missing, or a score is not finite.
    """
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
