"""What attacks save by sharing: the grey attacks together against each alone, in pairs, on the test bed.

    python benchmarks/shared_work.py [--samples 64] [--rounds 3]

Counts UNet forwards, and times both ways interleaved in one process. "Alone" is a fresh trial per attack, as separate
scripts would run. Two readings of "an attack" are printed: as raymia names them; and as separate scripts would be
published, where each preset and error of `denoising`, and PIA and PIAN, is a run of its own.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import torch

from raymia.attacks.base import ATTACKS, Access, Attack
from raymia.attacks.denoising import Denoising
from raymia.bench.attacks import load_samples
from raymia.replica.families import LoadOptions
from raymia.replica.folder import load_replica
from raymia.replica.protocol import Replica
from raymia.scan.cost import count
from raymia.scan.scorer import images_on
from raymia.testbed import PIPELINE
from raymia.trial.trial import Trial

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    replica = load_replica(str(PIPELINE), LoadOptions(resolution_px=64))
    batches = load(options.samples)
    grey = [kind() for kind in ATTACKS.all().values() if kind.access == Access.GREY]
    published = [attack for attack in grey if not isinstance(attack, Denoising)]
    published += [Denoising(presets=[name], errors=(error,)) for name in Denoising().presets for error in Denoising().errors]
    for title, alone in (("attacks as raymia names them", grey), ("each preset and error a run of its own", published)):
        apart = sum(count([attack], replica.schedule).forwards for attack in alone)
        together = count(grey, replica.schedule).forwards
        ratios = []
        for _ in range(options.rounds):
            seconds_together = run(replica, batches, [grey])
            seconds_apart = run(replica, batches, [[attack] for attack in alone])
            ratios.append(seconds_together / seconds_apart)
        print(f"{title}: {len(alone)} runs")
        print(f"  UNet forwards per image: {together} together, {apart} apart, ratio {together / apart:.2f}")
        print(f"  wall time, together over apart: median {statistics.median(ratios):.2f} of {[round(r, 2) for r in ratios]}")


def load(samples: int) -> list[tuple[torch.Tensor, list[str], list[str]]]:
    """Batches of images in [-1, 1], captions and keys."""
    pixels, captions, keys, _ = load_samples(samples)
    parts = [slice(start, start + BATCH) for start in range(0, samples, BATCH)]
    return [(images_on(torch.device("cpu"), pixels[part]), captions[part], keys[part]) for part in parts]


def run(
    replica: Replica,
    batches: Sequence[tuple[torch.Tensor, list[str], list[str]]],
    trials: Sequence[Sequence[Attack]],
) -> float:
    """Seconds for all batches, one trial per group of attacks."""
    start = time.perf_counter()
    for images, captions, keys in batches:
        for attacks in trials:
            trial = Trial(replica, images, captions, keys, seed=0)
            for attack in attacks:
                attack.score(trial)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
