"""What the set-level tests do where nothing was trained on, and where something was: shares of draws with p below .05.

    python benchmarks/set_level.py [--draws 500]

Sets of 10, 20, 50 and 200 of made-up scores: of signals that correlate, of sets of unequal size, with heavy tails, and of
works in clusters of twins. `counts` is the test that counts at that size. Beside them: one split into halves, and scores of all
samples out of fold in one test, as the data set inference of CDI (arXiv 2411.12858) is often read.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from scipy.stats import ttest_ind
from threadpoolctl import threadpool_limits

from raymia.evaluation.combined import STRENGTH
from raymia.evaluation.crossfit import linear_model, out_of_fold
from raymia.evaluation.set_level import ENOUGH_TO_FIT, mean_p, split_p, splits_p

SIGNALS = 8
SIZES = (10, 20, 50, 200)
Rows = np.ndarray
Draw = Callable[[np.random.Generator, int], Rows]


def correlated(random: np.random.Generator, n: int) -> Rows:
    return 0.8 * random.normal(size=(n, 1)) + 0.6 * random.normal(size=(n, SIGNALS))


def heavy(random: np.random.Generator, n: int) -> Rows:
    return random.standard_t(3, size=(n, SIGNALS))


def twins(random: np.random.Generator, n: int) -> Rows:
    """Means of clusters of one to five works that share most of what they score."""
    sizes = random.integers(1, 6, n)
    own = np.array([random.normal(size=(size, SIGNALS)).mean(axis=0) for size in sizes])
    return np.asarray(random.normal(size=(n, SIGNALS)) + 0.3 * own)


WAYS: dict[str, tuple[Draw, float]] = {
    "correlated signals": (correlated, 1.0),
    "unequal sizes": (correlated, 4.0),
    "heavy tails": (heavy, 1.0),
    "clusters of twins": (twins, 1.0),
}
"""How scores are drawn, and how many control samples there are to a suspect one."""


def crossfit_p(suspect: Rows, control: Rows, seed: int) -> float:
    """Scores of all samples out of fold, in one Welch test: folds were fitted on each other, and p is not valid."""
    rows, suspected = np.vstack([suspect, control]), np.arange(len(suspect) + len(control)) < len(suspect)
    scores = out_of_fold(linear_model(STRENGTH), rows, suspected, seed)
    return float(ttest_ind(scores[suspected], scores[~suspected], equal_var=False, alternative="greater").pvalue)


def shares(draw: Draw, ratio: float, size: int, trained: float, draws: int) -> dict[str, float]:
    """Share of draws with p below .05, by test.

    Args:
        trained: share of the suspect samples whose scores are raised by half a deviation.
    """
    found: dict[str, list[float]] = {}
    for number in range(draws):
        random = np.random.default_rng(number)
        suspect, control = draw(random, size), draw(random, int(ratio * size))
        suspect = suspect + 0.5 * (random.random((size, 1)) < trained) * (trained > 0)
        p = {"mean": mean_p(suspect, control), "one split": split_p(suspect, control, number)}
        p["50 splits"] = splits_p(suspect, control, number)
        p["counts"] = p["50 splits" if size >= ENOUGH_TO_FIT else "mean"]
        p["out of fold"] = crossfit_p(suspect, control, number)
        for name, value in p.items():
            found.setdefault(name, []).append(value)
    return {name: float(np.mean(np.array(values) < 0.05)) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=500)
    draws = parser.parse_args().draws
    names = ("counts", "mean", "50 splits", "one split", "out of fold")
    with threadpool_limits(1):
        for title, trained in (("nothing was trained on", 0.0), ("40 % were trained on", 0.4)):
            print(f"\n{title:24s} {'n':>4s} " + " ".join(f"{name:>11s}" for name in names))
            for way, (draw, ratio) in WAYS.items():
                for size in SIZES:
                    found = shares(draw, ratio, size, trained, draws)
                    print(f"{way:24s} {size:4d} " + " ".join(f"{found[name]:11.3f}" for name in names), flush=True)


if __name__ == "__main__":
    main()
