"""What the set-level tests do where nothing was trained on, and where something was: shares of draws with p below .05.

    python benchmarks/set_level.py [--draws 500]
    python benchmarks/set_level.py --run RUN     # all signals against the features of CDI, on random sets of a labelled run

Sets of 10, 20, 50 and 200 of made-up scores: of signals that correlate, of sets of unequal size, with heavy tails, and of
works in clusters of twins. `counts` is the test that counts at that size; the 50 splits are made where they count. A fifth of
the draws shows what is found where something was trained on. Beside them: one split into halves, and scores of all
samples out of fold in one test, as the data set inference of CDI (arXiv 2411.12858) is often read.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.stats import ttest_ind
from threadpoolctl import threadpool_limits

from raymia.evaluation.cdi import cdi_signals
from raymia.evaluation.combined import STRENGTH
from raymia.evaluation.crossfit import linear_model, out_of_fold
from raymia.evaluation.set_level import ENOUGH_TO_FIT, mean_p, split_p, splits_p
from raymia.evaluation.signals import LEVELS
from raymia.run.ledger import Ledger
from raymia.run.record import Access

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
        p["counts"] = splits_p(suspect, control, number) if size >= ENOUGH_TO_FIT else p["mean"]
        p["out of fold"] = crossfit_p(suspect, control, number)
        for name, value in p.items():
            found.setdefault(name, []).append(value)
    return {name: float(np.mean(np.array(values) < 0.05)) for name, values in found.items()}


def of_run(run: str) -> None:
    """Shares of draws with p below .05 by all signals of a run, but for variants of attacks, and by those that are CDI's."""
    ledger = Ledger(run)
    signals = ledger.require_scan().signals
    primary = {signal.name: signal.primary for signal in signals if signal.access in LEVELS and ":" not in signal.attack}
    sets = {"all": list(primary), "cdi": cdi_signals(signals, Access.WHITE, run)}
    means = {"all": [name for name, whole in primary.items() if whole], "cdi": sets["cdi"]}
    print({name: (len(columns), len(means[name])) for name, columns in sets.items()}, "signals, and of the mean")
    table = ledger.frame()
    members, others = table[table["member"].eq(True)], table[table["member"].eq(False)]
    for trained in (0.2, 0.0):
        for size in (20, 50, 100, 200):
            random, found = np.random.default_rng(0), dict[str, list[float]]()
            for draw in range(60):
                drawn, order = random.permutation(len(members))[: round(trained * size)], random.permutation(len(others))
                suspect = pd.concat([members.iloc[drawn], others.iloc[order[: size - len(drawn)]]])
                pair = suspect, others.iloc[order[size : 2 * size]]
                for name, columns in sets.items():
                    ours, theirs = (part[means[name]].to_numpy(float) for part in pair)
                    found.setdefault(f"mean, {name}", []).append(mean_p(ours, theirs))
                    if size >= ENOUGH_TO_FIT and draw < 20:
                        ours, theirs = (part[columns].to_numpy(float) for part in pair)
                        found.setdefault(f"splits, {name}", []).append(splits_p(ours, theirs, draw))
            shown = ", ".join(f"{name} {np.mean(np.array(p) < 0.05):.3f}" for name, p in found.items())
            print(f"{trained:.0%} trained on, {size} of each: {shown}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--run")
    given = parser.parse_args()
    if given.run:
        of_run(given.run)
        return
    names = ("counts", "mean", "one split", "out of fold")
    with threadpool_limits(1):
        for title, trained, draws in (
            ("nothing was trained on", 0.0, given.draws),
            ("40 % were trained on", 0.4, given.draws // 5),
        ):
            print(f"\n{title:24s} {'n':>4s} " + " ".join(f"{name:>11s}" for name in names))
            for way, (draw, ratio) in WAYS.items():
                for size in SIZES:
                    found = shares(draw, ratio, size, trained, draws)
                    print(f"{way:24s} {size:4d} " + " ".join(f"{found[name]:11.3f}" for name in names), flush=True)


if __name__ == "__main__":
    main()
