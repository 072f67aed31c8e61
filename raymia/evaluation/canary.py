"""Whether the published half of works that were divided by lot scores higher than the half that was held back.

Nothing is assumed of the works, of the model or of the scores: they are what they are, and chance is in the draw alone, which
is known. If the model had learnt nothing from the published half, every work would score the same whichever half it had
fallen into, and the true draw would be one among all that could have come out, each as likely as the other (a randomisation
test, Fisher, The Design of Experiments, 1935). So the false-positive rate is exact at every size.

A work that could not be scored is left out of its unit. That is right where it depends on the bytes alone, as with an image
that does not decode: it would be left out on either side, so that what is compared stays fixed while the draw varies. It is
not right for a work that is not there any more, as whoever lost it may have known on which side it was: such a work is
**missing**, and whatever it might have scored, within the range of all others, counts against the finding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy.stats import rankdata

from raymia.errors import RaymiaError
from raymia.evaluation.roc import Floats

REDRAWS = 99_999
ROUNDING = 1e-9
"""Of a signal's spread: two statistics that differ by less are the same, computed in another order."""
CELLS = 2**22
"""Redraws times units that are held in memory at once."""

Mask = NDArray[np.bool_]


class CanarySignal(BaseModel):
    """One signal of the test."""

    name: str
    effect: float
    """Mean of the published units less that of the held-back ones, in standard deviations of all units."""
    auc: float
    """How well the signal tells one published unit from one that was held back."""
    p: float
    """Of this signal, if it were the only one."""
    p_adjusted: float
    """The same where it is the highest of all the signals that counts."""


class CanaryTest(BaseModel):
    """The published half against the half that was held back."""

    p: float
    """Share of the draws that could have come out, the true one among them, whose highest signal is as high."""
    statistic: float
    """The highest of the signals' effects, missing works at their worst."""
    enumerated: bool
    """Whether every draw was looked at; else random ones were, which is exact too."""
    draws: int
    """That were looked at, the true one among them."""
    published: int
    """Units with works that count."""
    held_back: int
    signals: list[CanarySignal]


@dataclass(frozen=True)
class UnitScores:
    """What is known of each unit's score.

    Attributes:
        seen: (units, signals) means of the works that were scored; not a number where there are none.
        low, high: (units, signals) what the mean can be at least and at most, with works that are missing.
        counts: (units,) whether the unit has any work that was scored or is missing.
    """

    seen: Floats
    low: Floats
    high: Floats
    counts: Mask


def unit_scores(scores: Floats, unit: NDArray[np.int64], missing: NDArray[np.int64], units: int) -> UnitScores:
    """Put the scores of works together to those of their units.

    Args:
        scores: (works, signals) of the works that were scored; higher is more likely trained on.
        unit: (works,) number of each one's unit.
        missing: number of the unit of each work that is missing.
        units: how many were planned.

    Raises:
        RaymiaError: nothing was scored.
    """
    if not len(scores):
        raise RaymiaError("no planned work was scored; the quarantine of the scan says why")
    total = np.zeros((units, scores.shape[1]))
    np.add.at(total, unit, scores)
    scored, gone = np.bincount(unit, minlength=units), np.bincount(missing, minlength=units)
    known = (scored + gone)[:, None]
    with np.errstate(invalid="ignore"):
        low, high = ((total + gone[:, None] * bound) / known for bound in (scores.min(axis=0), scores.max(axis=0)))
        return UnitScores(total / scored[:, None], low, high, known[:, 0] > 0)


def canary_test(found: UnitScores, published: Mask, names: Sequence[str], redraws: int, seed: int) -> CanaryTest:
    """Hold the draw against all that could have come out.

    The statistic is the highest, over signals, of the difference of the two halves' means, each in standard deviations of all
    units that were seen, which no redraw changes. Every redraw publishes as many of the planned units as the plan did; units
    without a work that counts are redrawn too and add nothing. With missing works a redraw counts as at least as high where
    any scores of theirs would make it so: where in some signal it could reach the true draw's own, and the highest of all.

    Args:
        found: of every planned unit.
        published: (units,) which were drawn to be published.
        names: of the signals.
        redraws: how many are made; where there are no more draws than that, each is looked at once.
        seed: of the redraws.

    Raises:
        RaymiaError: no unit of one side has a work that counts.
    """
    seen = np.isfinite(found.seen).all(axis=1)
    if not (seen & published).any() or not (seen & ~published).any():
        side = "held-back" if (seen & published).any() else "published"
        raise RaymiaError(f"none of the {side} works was scored; there is nothing to compare")
    centre, spread = found.seen[seen].mean(axis=0), found.seen[seen].std(axis=0)
    # A signal that says the same of all has no scale to be read on, and its effect is 0.
    scale = np.where(spread > ROUNDING * np.abs(found.seen[seen]).max(axis=0), spread, np.inf)
    low, high = (np.where(found.counts[:, None], (rows - centre) / scale, 0.0) for rows in (found.low, found.high))
    draw = _Draw(low, high, found.counts, published)
    hits, alone, adjusted, draws = 0, np.zeros(len(names), int), np.zeros(len(names), int), 0
    count, some = len(published), int(published.sum())
    enumerated = math.comb(count, some) <= redraws
    for chosen in every_draw(count, some) if enumerated else random_draws(count, some, redraws, seed):
        own, top = draw.compared(chosen)
        hits += int((own & (top >= draw.statistic.max() - ROUNDING)).any(axis=1).sum())
        alone += own.sum(axis=0)
        adjusted += (top.max(axis=1)[:, None] >= draw.statistic - ROUNDING).sum(axis=0)
        draws += len(chosen)
    true = 0 if enumerated else 1
    of = draws + true
    auc = auc_of(found.seen[seen], published[seen])
    effect = (found.seen[seen & published].mean(axis=0) - found.seen[seen & ~published].mean(axis=0)) / scale
    return CanaryTest(
        p=(hits + true) / of,
        statistic=float(draw.statistic.max()),
        enumerated=enumerated,
        draws=of,
        published=int((found.counts & published).sum()),
        held_back=int((found.counts & ~published).sum()),
        signals=[
            CanarySignal(
                name=name,
                effect=float(effect[column]),
                auc=float(auc[column]),
                p=float(alone[column] + true) / of,
                p_adjusted=float(adjusted[column] + true) / of,
            )
            for column, name in enumerate(names)
        ],
    )


def auc_of(scores: Floats, published: Mask) -> Floats:
    """(signals,) share of pairs of a published unit and one held back of which the published one is higher; ties count half."""
    ours = int(published.sum())
    ranks = rankdata(scores, axis=0)[published].sum(axis=0)
    shares: Floats = (ranks - ours * (ours + 1) / 2) / (ours * (len(published) - ours))
    return shares


class _Draw:
    """The true draw, and other draws held against it.

    Attributes:
        statistic: (signals,) lowest that the true draw's effects can be.
    """

    def __init__(self, low: Floats, high: Floats, counts: Mask, published: Mask) -> None:
        """Begin with (units, signals) bounds in standard deviations, 0 where a unit does not count."""
        self._low, self._high, self._counts = low, high, counts.astype(float)
        ours, theirs = published[:, None], ~published[:, None]
        self._worst = np.where(ours, low, high)
        self._loose = (high - low) * ours, (high - low) * theirs
        self._sizes = float(counts[published].sum()), float(counts[~published].sum())
        self._open = bool((high > low).any())
        self.statistic = (
            self._worst[published].sum(axis=0) / self._sizes[0] - self._worst[~published].sum(axis=0) / self._sizes[1]
        )

    def compared(self, chosen: Floats) -> tuple[Mask, Floats]:
        """What other draws would have given.

        Args:
            chosen: (draws, units) 1 for a unit that is published, else 0.

        Returns:
            (draws, signals) whether the signal could be as high as with the true draw, and the highest that it could be.
        """
        ours = (chosen @ self._counts)[:, None]
        theirs = self._counts.sum() - ours
        empty = (ours == 0) | (theirs == 0)  # nothing can be said of such a draw: it counts against the finding
        ours, theirs = np.where(empty, 1.0, ours), np.where(empty, 1.0, theirs)
        rest = 1.0 - chosen
        own = chosen @ self._worst / ours - rest @ self._worst / theirs
        if not self._open:
            return empty | (own >= self.statistic - ROUNDING), np.where(empty, np.inf, own)
        # A missing work that stays on its side weighs otherwise there, where units without works changed sides.
        own += (chosen @ self._loose[0]) * np.maximum(1 / ours - 1 / self._sizes[0], 0.0)
        own += (rest @ self._loose[1]) * np.maximum(1 / theirs - 1 / self._sizes[1], 0.0)
        top = chosen @ self._high / ours - rest @ self._low / theirs
        return empty | (own >= self.statistic - ROUNDING), np.where(empty, np.inf, top)


def every_draw(units: int, published: int) -> Iterator[Floats]:
    """(draws, units) of 0 and 1, some at a time: each way to publish so many of the units."""
    ways = itertools.combinations(range(units), published)
    while some := list(itertools.islice(ways, max(1, CELLS // units))):
        yield _marked(np.array(some, np.int64).reshape(len(some), published), units)


def random_draws(units: int, published: int, draws: int, seed: int) -> Iterator[Floats]:
    """(draws, units) of 0 and 1, some at a time: random ways to publish so many of the units, each as likely."""
    random = np.random.default_rng(seed)
    for start in range(0, draws, at_once := max(1, CELLS // units)):
        keys = random.random((min(at_once, draws - start), units))
        yield _marked(np.argpartition(keys, published - 1, axis=1)[:, :published], units)


def _marked(chosen: NDArray[np.int64], units: int) -> Floats:
    marked = np.zeros((len(chosen), units))
    np.put_along_axis(marked, chosen, 1.0, axis=1)
    return marked
