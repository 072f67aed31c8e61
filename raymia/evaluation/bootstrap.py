"""A stratified bootstrap over ranks: members and non-members are drawn anew, and every statistic is taken of every draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raymia.evaluation.roc import Floats

DRAWS = 1000
COLUMNS_AT_ONCE = 16
CHUNK = 2**23
"""Resampled samples that are held at once."""


@dataclass(frozen=True)
class Resampled:
    """What some bootstrap draws leave of one score: a rank for each sample, and how often it was drawn.

    A threshold at a member's score accuses it, the members above it, and the non-members at or above it. So for each member,
    best first, the numbers of non-members above it and at or above it say all. Every draw has as many members and
    non-members as the sample itself. In the plane of non-members (a) and members (h) accused, the ROC curve rises by
    `weights` over `above` < a <= `at_or_above`: at once where no non-member ties with the member, else along a line.

    Attributes:
        weights: (draws, n_members) how often each member was drawn, best first.
        hits: (draws, n_members + 1) members drawn among the best 0, 1, .. n_members.
        above: (draws, n_members) non-members drawn that score above each member; no row ever falls.
        at_or_above: the same with those that tie with it; the very same array where no scores tie.
        n_non_members: drawn, and in the sample.
    """

    weights: NDArray[np.uint8]
    hits: NDArray[np.int32]
    above: NDArray[np.int32]
    at_or_above: NDArray[np.int32]
    n_non_members: int

    @property
    def n_members(self) -> int:
        """Members drawn, and in the sample."""
        return int(self.weights.shape[1])

    def tpr_at(self, fprs: ArrayLike) -> Floats:
        """(draws, rates) the largest TPR over thresholds whose FPR is at most each of the rates; see `Roc.tpr_at`."""
        # A share of alarms is a count over n; comparing counts keeps 3/10 <= .3 true in floating point.
        allowed = np.floor(np.asarray(fprs) * self.n_non_members + 1e-9).astype(np.int32)
        hits = np.empty((len(self.hits), len(allowed)))
        for draw, (members, alarms) in enumerate(zip(self.hits, self.at_or_above, strict=True)):
            hits[draw] = members[alarms.searchsorted(allowed, side="right")]
        return hits / self.n_members


Statistic = Callable[[Resampled], Floats]
"""Takes a number, or a row of them, from each draw: (draws,) or (draws, numbers)."""


class _Ordered:
    """One score's order, from which each part of the draws is made."""

    def __init__(self, scores: Floats, member: NDArray[np.bool_]) -> None:
        members, others = scores[member], scores[~member]
        self.member_order = np.argsort(-members, kind="stable")
        self.other_order = np.argsort(-others, kind="stable")
        best_first, highest_first = -members[self.member_order], -others[self.other_order]
        self.at_or_above = np.searchsorted(highest_first, best_first, side="right")
        above = np.searchsorted(highest_first, best_first, side="left")
        self.above = self.at_or_above if np.array_equal(above, self.at_or_above) else above

    def resampled(self, members: NDArray[np.uint8], others: NDArray[np.uint8]) -> Resampled:
        """The draws in which each member and each non-member was drawn so often: (draws, n_members), (draws, others)."""
        draws, n_others = others.shape
        alarms = np.zeros((draws, n_others + 1), np.int32)
        np.cumsum(others[:, self.other_order], axis=1, out=alarms[:, 1:])
        weights = members[:, self.member_order]
        hits = np.zeros((draws, weights.shape[1] + 1), np.int32)
        np.cumsum(weights, axis=1, out=hits[:, 1:])
        at_or_above = alarms[:, self.at_or_above]
        above = at_or_above if self.above is self.at_or_above else alarms[:, self.above]
        return Resampled(weights, hits, above, at_or_above, n_others)


def resamples(
    n_members: int, n_others: int, seed: int, draws: int = DRAWS
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """How often each member and each non-member is drawn, with replacement, in parts of some draws at a time.

    Yields:
        (part, n_members) and (part, n_others) counts; the rows of all parts together are `draws` many.
    """
    random = np.random.default_rng(seed)
    part = max(1, min(draws, CHUNK // (n_members + n_others)))
    for start in range(0, draws, part):
        rows = min(part, draws - start)
        yield _counts(random, rows, n_members), _counts(random, rows, n_others)


def _counts(random: np.random.Generator, rows: int, n: int) -> NDArray[np.uint8]:
    drawn = random.integers(0, n, (rows, n), dtype=np.int32) + (np.arange(rows, dtype=np.int32) * n)[:, None]
    # 256 draws of one sample out of n have a chance below 1e-500 for any n where they are possible at all.
    return np.bincount(drawn.ravel(), minlength=rows * n).astype(np.uint8).reshape(rows, n)


def bootstrap(
    columns: Mapping[str, Floats],
    member: NDArray[np.bool_],
    statistics: Mapping[str, Statistic],
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, dict[str, Floats]]:
    """Resample members and non-members separately, with replacement; the same resamples for every column.

    So the difference of two columns' statistics, draw by draw, is their paired bootstrap.

    Args:
        columns: scores by name, each (n,), higher meaning member.
        member: (n,) labels with both classes.
        statistics: what is taken of each draw, by name.
        seed: of the draws.

    Returns:
        The statistics of all draws, (draws,) or (draws, numbers) each, by column and then by name.
    """
    names = list(columns)
    taken: dict[str, dict[str, Floats]] = {}
    # The order of a million scores takes 30 MB: so many columns at a time, and the same resamples for each part.
    for first in range(0, len(names), COLUMNS_AT_ONCE):
        ordered = {name: _Ordered(columns[name], member) for name in names[first : first + COLUMNS_AT_ONCE]}
        parts: dict[str, dict[str, list[Floats]]] = {name: {key: [] for key in statistics} for name in ordered}
        for members, others in resamples(int(member.sum()), int((~member).sum()), seed, draws):
            for name, order in ordered.items():
                resampled = order.resampled(members, others)
                for key, statistic in statistics.items():
                    parts[name][key].append(statistic(resampled))
        taken |= {name: {key: np.concatenate(part) for key, part in keys.items()} for name, keys in parts.items()}
    return taken
