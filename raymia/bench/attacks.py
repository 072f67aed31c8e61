"""What each attack finds on the test bed, and what it costs in evaluations and time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from sklearn.metrics import roc_auc_score

from raymia.attacks.base import Access, Attack, registry
from raymia.data.images import MAX_PIXELS, decode_image
from raymia.data.manifest import load_manifest
from raymia.data.selection import shard_readers
from raymia.data.tar import Fault, RawSample
from raymia.errors import ConfigError, suggest
from raymia.replica.stable_diffusion import StableDiffusion, find_pipeline
from raymia.scan.scorer import Scorer
from raymia.testbed import CLIP, PIPELINE, TESTBED
from raymia.testbed.architecture import RESOLUTION_PX

BATCH = 32
Samples = tuple[NDArray[np.uint8], list[str], list[str], NDArray[np.bool_]]
"""Pixels, captions, keys and membership."""


class AttackBench(BaseModel):
    """One attack at its defaults, alone in front of one replica with all threads."""

    attack: str
    access: str
    samples: int
    auc: float
    """Of its primary signal; DeLong's standard error at 512 + 512 is about 0.01."""
    unet_forwards: float
    """Per image."""
    encodes: float
    images_s: float


def bench_attacks(names: Sequence[str] = (), samples: int = 256) -> Iterator[AttackBench]:
    """Score members and non-members of the test bed with one attack after the other.

    Args:
        names: of attacks; by default all that need nothing but the UNet and the autoencoder.
        samples: half of them members.

    Raises:
        ConfigError: an unknown attack, or more samples than there are.
    """
    known = registry()
    for name in names:
        if name not in known:
            raise ConfigError(f"attack {name!r}{suggest(name, list(known))}; known are {', '.join(known)}")
    chosen = names or [name for name, kind in known.items() if kind.access in (Access.GREY, Access.CONTROL)]
    pixels, captions, keys, member = load_samples(samples)
    torch.set_num_threads(os.cpu_count() or 1)
    replica = StableDiffusion(find_pipeline(str(PIPELINE), with_weights=True), resolution_px=RESOLUTION_PX)
    for name in chosen:
        attack = known[name]()
        scorer = _scorer(replica, attack)
        scorer.score(pixels[:BATCH], captions[:BATCH], keys[:BATCH])  # the first calls are slower than the rest
        before, start = (scorer.evaluations.unet_forwards, scorer.evaluations.encodes), time.perf_counter()
        scores: list[float] = []
        for first in range(0, samples, BATCH):
            part = slice(first, first + BATCH)
            for outcome in scorer.score(pixels[part], captions[part], keys[part]):
                if isinstance(outcome, Fault):
                    raise ConfigError(f"attack {name}: {outcome.reason}: {outcome.detail}")
                scores.append(float(outcome[name]))  # type: ignore[arg-type]
        seconds = time.perf_counter() - start
        yield AttackBench(
            attack=name,
            access=str(attack.access),
            samples=samples,
            auc=float(roc_auc_score(member, scores)),
            unet_forwards=(scorer.evaluations.unet_forwards - before[0]) / samples,
            encodes=(scorer.evaluations.encodes - before[1]) / samples,
            images_s=samples / seconds,
        )


def load_samples(count: int) -> Samples:
    """Images of the test bed, members and non-members in equal numbers, in turn.

    Raises:
        ConfigError: there are not so many.
    """
    found: dict[bool, list[RawSample]] = {True: [], False: []}
    for reader in shard_readers(*load_manifest(TESTBED)):
        items = (item for item in reader.read() if isinstance(item, RawSample))
        found[bool(reader.shard.member)] += items
    half = count // 2
    if count % 2 or half > min(map(len, found.values())):
        raise ConfigError(f"samples {count}: expected an even number up to {2 * min(map(len, found.values()))}")
    chosen = [
        (sample, member)
        for pair in zip(found[True][:half], found[False][:half], strict=True)
        for sample, member in zip(pair, (True, False), strict=True)
    ]
    pixels = np.stack([decode_image(sample.image or b"", RESOLUTION_PX, MAX_PIXELS).pixels for sample, _ in chosen])
    samples = [sample for sample, _ in chosen]
    member = np.array([label for _, label in chosen])
    return pixels, [sample.caption for sample in samples], [sample.key for sample in samples], member


def _scorer(replica: StableDiffusion, attack: Attack) -> Scorer:
    clip = None
    if "clip" in attack.needs():
        from raymia.clip import Clip

        clip = Clip(str(CLIP), replica.device)
    if "lpips" in attack.needs():
        raise ConfigError(
            f"attack {attack.name}: needs the weights of LPIPS at its defaults, which do not come with the test bed"
        )
    return Scorer(replica, {attack.name: attack}, 0, clip)
