"""What adjusted scores do where nothing was learned: alike splits, and splits whose images look different.

    python benchmarks/adjusted.py [--draws 200]

Made-up signals of images of made-up looks. First members and non-members look alike: the AUC must leave the noise floor in
2.5 % of draws to either side, whatever the tails of the signal and however much of it looks explain. Then one fact of the
members' images, the length of the latents, is shifted by so many deviations, and the signal follows that fact along a line, a
parabola or a step, or not at all. `looks` is the classifier that adjusted signals are held against.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from raymia.evaluation.adjusted import adjusted_scores
from raymia.evaluation.intervals import noise_floor
from raymia.evaluation.labelled import LabelledSamples
from raymia.run.record import SignalRecord

SIGNAL = SignalRecord(name="loss", attack="loss", access="grey", primary=True)
WAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "along a line": lambda x: 1.5 * x,
    "along a parabola": lambda x: 1.5 * x + 0.5 * x**2,
    "along a step": lambda x: 2 * np.tanh(2 * x),
    "not at all": lambda x: 0 * x,
}
SHIFTED = ("signal", "adjusted", "looks", "above floor", "and above looks")


def images(random: np.random.Generator, n: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Looks of n images, and (n, 8) the normal numbers that they come from."""
    hidden = random.normal(size=(n, 8))
    table = pd.DataFrame(
        {
            "width": 512 * np.exp(0.4 * hidden[:, 0]),
            "height": 512 * np.exp(0.4 * hidden[:, 1]),
            "jpeg_bytes": 6e4 * np.exp(0.5 * hidden[:, 2]),
            "entropy": 6 + hidden[:, 3],
            "colourfulness": 40 + 10 * hidden[:, 4],
            "edge_density": 0.1 + 0.02 * hidden[:, 5],
            "autoencoder": -0.01 * np.exp(hidden[:, 6]),
            "autoencoder.latent": -np.exp(0.2 * hidden[:, 7]),
            "caption": ["a" * length for length in random.integers(10, 80, n)],
        }
    )
    return table, hidden


def labelled(table: pd.DataFrame, member: np.ndarray, scores: np.ndarray, seed: int) -> LabelledSamples:
    return LabelledSamples.of_table(table.assign(member=member, loss=scores), [SIGNAL], seed)


def alike(n: int, freedom: float, explained: float, draws: int) -> tuple[float, float, float]:
    """Mean AUC, and shares of draws below and above the noise floor, where members and non-members look alike.

    Args:
        n: members, and non-members.
        freedom: of the t distribution that the rest of the signal has; infinite for a normal one.
        explained: share of the signal, as a part of its scale, that looks explain.
    """
    member, found = np.arange(2 * n) < n, []
    for seed in range(draws):
        random = np.random.default_rng(seed)
        table, hidden = images(random, 2 * n)
        told = hidden @ random.normal(size=8)
        rest = random.normal(size=2 * n) if np.isinf(freedom) else random.standard_t(freedom, size=2 * n)
        scores = np.sqrt(explained) * told / told.std() + np.sqrt(1 - explained) * rest
        found.append(roc_auc_score(member, adjusted_scores(labelled(table, member, scores, seed)).labelled["adjusted.loss"]))
    low, high = noise_floor(n, n).auc
    return float(np.mean(found)), float(np.mean(np.array(found) < low)), float(np.mean(np.array(found) > high))


def shifted(n: int, shift: float, way: Callable[[np.ndarray], np.ndarray], draws: int) -> dict[str, float]:
    """Where the members' latents are longer or shorter and the signal follows that: AUC, and shares of draws beyond bounds."""
    member, rows = np.arange(2 * n) < n, []
    high = noise_floor(n, n).auc[1]
    for seed in range(draws):
        random = np.random.default_rng(seed)
        table, hidden = images(random, 2 * n)
        length = hidden[:, 7] + shift * member
        table["autoencoder.latent"] = -np.exp(0.2 * length)
        samples = labelled(table, member, way(length) + random.normal(size=2 * n), seed)
        adjusted = adjusted_scores(samples)
        columns = (samples.columns["loss"], adjusted.labelled["adjusted.loss"], adjusted.appearance)
        aucs = [float(roc_auc_score(member, column)) for column in columns]
        rows.append([*aucs, aucs[1] > high, aucs[1] > max(high, aucs[2])])
    return dict(zip(SHIFTED, np.mean(rows, axis=0).tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200)
    draws = parser.parse_args().draws
    with threadpool_limits(1):
        print("members and non-members look alike")
        print(f"{'n':>4s} {'tails':>8s} {'explained':>9s} {'AUC':>6s} {'below floor':>11s} {'above floor':>11s}")
        for n in (128, 256, 512):
            for freedom in (np.inf, 1.2):
                for explained in (0.0, 0.8):
                    auc, below, above = alike(n, freedom, explained, draws)
                    tails = "normal" if np.isinf(freedom) else f"t({freedom:g})"
                    print(f"{n:4d} {tails:>8s} {explained:9.1f} {auc:6.3f} {below:11.3f} {above:11.3f}", flush=True)
        print(f"\n{'the signal follows':18s} {'shift':>5s} " + " ".join(f"{name:>15s}" for name in SHIFTED))
        for title, way in WAYS.items():
            for shift in (0.5, 1.0, 2.0):
                found = shifted(256, shift, way, draws)
                print(f"{title:18s} {shift:5.2f} " + " ".join(f"{found[name]:15.3f}" for name in SHIFTED), flush=True)


if __name__ == "__main__":
    main()
