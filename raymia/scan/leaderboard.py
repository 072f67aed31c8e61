"""How well settings of attacks told members on models of known members: the table that comes with the package."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from raymia.run.record import Evaluations

FILE = "leaderboard.json"
BACKWARD = 2
"""Forwards that a backward pass counts for: it computes two products of each layer where a forward computes one."""


def passes(cost: Evaluations) -> int:
    """Forwards, a backward counting for two; what the autoencoder does is not counted."""
    return cost.forwards + BACKWARD * cost.backwards


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Figure(_Part):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


class Figures(_Part):
    """What one signal reached on one model."""

    auc: Figure
    tpr: Figure
    """At 1 % FPR."""


class Entry(_Part):
    """One setting of an attack, and the one of its signals that was chosen with it."""

    attack: str
    parameters: dict[str, Any]
    """Those that differ from the defaults; none are the defaults."""
    signal: str
    access: str
    cost: Evaluations
    """Per image, alone."""
    figures: dict[str, Figures]
    """By model."""

    @property
    def passes(self) -> int:
        """Forwards per image, alone, as `passes` counts them."""
        return passes(self.cost)

    def lowest_auc(self, models: list[str]) -> float:
        """On the worst of these models."""
        return min(self.figures[model].auc.value for model in models)


class Leaderboard(_Part):
    """Settings of attacks, chosen on one model and reported on others.

    Made by `raymia bench attacks --models ..`; see docs/attacks.md.
    """

    version: str
    """Of raymia that measured."""
    chosen_on: str
    reported_on: list[str] = Field(min_length=1)
    samples: dict[str, int]
    """Images of each model, half of them members."""
    entries: list[Entry]


@cache
def shipped_leaderboard() -> Leaderboard:
    """The table that comes with this version."""
    return Leaderboard.model_validate_json((files("raymia.scan") / FILE).read_text())
