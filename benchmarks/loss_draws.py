"""Which timesteps and which noise a budget of the loss is best spent on, on the test bed.

    python benchmarks/loss_draws.py [--samples 256] [--repeats 8]

A score is the mean loss over timesteps 100 to 500, of as many forwards as the budget says. Designs: timesteps drawn at random,
one drawn from each of as many strata, or the middle of each stratum; noise drawn anew for each, in antithetic pairs (e and -e
at neighbouring timesteps), or one draw at all timesteps. Printed are the variance of a sample's score from one repetition to
another, as a share of the variance between samples, and the AUC: means over the repetitions.
"""

from __future__ import annotations

import argparse
import json
import os

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from raymia.bench.attacks import SCORING_BATCH, load_samples
from raymia.replica.families import LoadOptions
from raymia.replica.folder import load_replica
from raymia.replica.protocol import Replica
from raymia.scan.scorer import images_on
from raymia.testbed import PIPELINE
from raymia.testbed.architecture import RESOLUTION_PX

FIRST, LAST = 100, 500
BUDGETS = (2, 4, 10)


def drawn(budget: int, batch: int, generator: torch.Generator) -> Tensor:
    return FIRST + (LAST - FIRST) * torch.rand(budget, batch, generator=generator)


def stratified(budget: int, batch: int, generator: torch.Generator) -> Tensor:
    places = torch.arange(budget)[:, None] + torch.rand(budget, batch, generator=generator)
    return FIRST + (LAST - FIRST) * places / budget


def middles(budget: int, batch: int, generator: torch.Generator) -> Tensor:
    return (FIRST + (LAST - FIRST) * (torch.arange(budget) + 0.5) / budget)[:, None].expand(budget, batch)


def anew(budget: int) -> list[int]:
    return list(range(1, budget + 1))


def antithetic(budget: int) -> list[int]:
    return [(1 + i // 2) * (-1 if i % 2 else 1) for i in range(budget)]


def one(budget: int) -> list[int]:
    return [1] * budget


DESIGNS = {
    "random t": (drawn, anew),
    "stratified t": (stratified, anew),
    "fixed t": (middles, anew),
    "fixed t, antithetic noise": (middles, antithetic),
    "fixed t, one noise": (middles, one),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_grad_enabled(False)
    pixels, captions, _, member = load_samples(options.samples)
    replica = load_replica(str(PIPELINE), LoadOptions(resolution_px=RESOLUTION_PX))
    z0, states = replica.encode(images_on(replica.device, pixels)), replica.text(captions)
    generator, rows = torch.Generator().manual_seed(0), []
    for budget in BUDGETS:
        for name, (timesteps, noises) in DESIGNS.items():
            scores = np.stack(
                [
                    score(replica, z0, states, timesteps(budget, len(z0), generator), noises(budget), generator)
                    for _ in range(options.repeats)
                ]
            )
            share = scores.var(axis=0, ddof=1).mean() / scores.mean(axis=0).var()
            auc = np.mean([roc_auc_score(member, once) for once in scores])
            rows.append({"forwards": budget, "design": name, "variance_share": float(share), "auc": float(auc)})
    if options.json:
        print(json.dumps({"options": vars(options), "rows": rows}, indent=2))
        return
    print(f"{options.samples} images, {options.repeats} repetitions")
    print(f"{'forwards':>8}  {'design':28}{'variance':>9}{'AUC':>7}")
    for row in rows:
        print(f"{row['forwards']:8}  {row['design']:28}{row['variance_share']:9.4f}{row['auc']:7.3f}")


def score(
    replica: Replica, z0: Tensor, states: Tensor, timesteps: Tensor, which: list[int], generator: torch.Generator
) -> np.ndarray:
    noises = {k: torch.randn(z0.shape, generator=generator) for k in {abs(number) for number in which}}
    total = torch.zeros(len(z0))
    for each, number in zip(timesteps.round().long(), which, strict=True):
        noise = noises[abs(number)] * (1 if number > 0 else -1)
        alpha, sigma = (
            torch.tensor([scale(int(t)) for t in each]) for scale in (replica.schedule.alpha, replica.schedule.sigma)
        )
        z = alpha[:, None, None, None] * z0 + sigma[:, None, None, None] * noise
        for start in range(0, len(z0), 4 * SCORING_BATCH):
            part = slice(start, start + 4 * SCORING_BATCH)
            predicted = replica.predicted_noise(z[part], each[part], states[part])
            total[part] += (predicted - noise[part]).square().mean(dim=(1, 2, 3))
    found: np.ndarray = -(total / len(which)).numpy()
    return found


if __name__ == "__main__":
    main()
