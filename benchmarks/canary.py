"""How many works a randomised hold-back needs: shares of plans that are found out, by how well single works are told apart.

    python benchmarks/canary.py [--plans 100]

Made-up normal scores of one signal, of which half the units were drawn to be published and score higher, so that a single
published unit and one that was kept back are told apart with the given AUC. `raymia canary test` does the rest.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.stats import norm

from raymia.evaluation.canary import canary_test, unit_scores

AUCS = (0.5, 0.55, 0.6, 0.7, 0.8)
UNITS = (20, 50, 100, 200, 500, 1000)
LEVELS = (0.05, 0.001)
REDRAWS = 1999


def p_values(auc: float, units: int, plans: int) -> np.ndarray:
    """p of so many plans."""
    shift = np.sqrt(2) * norm.ppf(auc)
    found = []
    for number in range(plans):
        random = np.random.default_rng([number, units])
        published = np.zeros(units, bool)
        published[random.permutation(units)[: units // 2]] = True
        scores = random.normal(size=(units, 1)) + shift * published[:, None]
        known = unit_scores(scores, np.arange(units), np.zeros(0, np.int64), units)
        found.append(canary_test(known, published, ["signal"], REDRAWS, number).p)
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", type=int, default=100)
    plans = parser.parse_args().plans
    print("| units | " + " | ".join(f"AUC {auc:g}" for auc in AUCS) + " |")
    print("|---|" + "---|" * len(AUCS))
    for units in UNITS:
        cells = []
        for auc in AUCS:
            p = p_values(auc, units, plans)
            cells.append(", ".join(f"{(p <= level).mean():.0%}" for level in LEVELS))
        print(f"| {units} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
