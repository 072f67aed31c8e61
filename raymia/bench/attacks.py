"""How well each attack tells members on the test bed, and what it costs in evaluations and time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from sklearn.metrics import roc_auc_score

from raymia.attacks.base import ATTACKS, Access
from raymia.config import Job, parse_job
from raymia.data.images import MAX_PIXELS, decode_image
from raymia.data.manifest import load_manifest
from raymia.data.selection import shard_readers
from raymia.data.tar import Fault, RawSample
from raymia.errors import ConfigError
from raymia.run.columns import EMBEDDING
from raymia.scan.scorer import Scorer, load_scorer
from raymia.testbed import TESTBED
from raymia.testbed.architecture import RESOLUTION_PX

SCORING_BATCH = 32
Samples = tuple[NDArray[np.uint8], list[str], list[str], NDArray[np.bool_]]
"""Pixels (n, side, side, 3), captions, keys and membership (n,)."""


class AttackBench(BaseModel):
    """One attack at its defaults, alone in front of one replica with all threads."""

    attack: str
    access: str
    samples: int
    auc: float
    """AUC of the attack's primary signal; DeLong's standard error at 512 + 512 samples is about 0.01."""
    forwards: float
    """Forwards of the UNet per image."""
    encodes: float
    """Encodes of the autoencoder per image."""
    images_s: float


def bench_attacks(names: Sequence[str] = (), samples: int = 256) -> Iterator[AttackBench]:
    """Score members and non-members of the test bed with one attack after the other.

    Args:
        names: names of attacks; by default all that need nothing but the UNet and the autoencoder.
        samples: number of images, half of them members.

    Raises:
        ConfigError: an unknown attack, one whose models cannot be loaded, or more samples than there are.
    """
    known = ATTACKS.all()
    chosen = names or [name for name, kind in known.items() if kind.access in (Access.GREY, Access.CONTROL)]
    jobs = {name: testbed_job([name]) for name in chosen}
    pixels, captions, keys, member = load_samples(samples)
    for name, job in jobs.items():
        scorer = load_scorer(job, "float32", "auto", os.cpu_count())
        # The first calls are slower than the rest.
        scorer.score(pixels[:SCORING_BATCH], captions[:SCORING_BATCH], keys[:SCORING_BATCH])
        before, start = (scorer.evaluations.forwards, scorer.evaluations.encodes), time.perf_counter()
        scores = score_all(scorer, pixels, captions, keys)[name]
        seconds = time.perf_counter() - start
        yield AttackBench(
            attack=name,
            access=str(known[name].access),
            samples=samples,
            auc=float(roc_auc_score(member, scores)),
            forwards=(scorer.evaluations.forwards - before[0]) / samples,
            encodes=(scorer.evaluations.encodes - before[1]) / samples,
            images_s=samples / seconds,
        )


def load_samples(count: int | None, manifest: str = TESTBED, side: int = RESOLUTION_PX) -> Samples:
    """Images of a manifest, members and non-members in equal numbers, in turn.

    Args:
        count, manifest: see `equal_samples`.
        side: of the images in px.

    Raises:
        ConfigError: `count` is odd, or there are not so many.
    """
    chosen, member = equal_samples(count, manifest)
    pixels = np.stack([decode_image(sample.image or b"", side, MAX_PIXELS).pixels for sample in chosen])
    return pixels, [sample.caption for sample in chosen], [sample.key for sample in chosen], member


def equal_samples(count: int | None, manifest: str = TESTBED) -> tuple[list[RawSample], NDArray[np.bool_]]:
    """Samples of a manifest as they are in their shards, members and non-members in equal numbers, in turn.

    Args:
        count: number of samples, an even one; none for as many as there are.
        manifest: path or name.

    Returns:
        The samples and their (n,) labels.

    Raises:
        ConfigError: `count` is odd, or there are not so many.
    """
    by_member: dict[bool, list[RawSample]] = {True: [], False: []}
    for reader in shard_readers(*load_manifest(manifest)):
        if reader.shard.member is not None:
            by_member[reader.shard.member] += [item for item in reader.read() if isinstance(item, RawSample)]
    most = min(map(len, by_member.values()))
    half = most if count is None else count // 2
    if (count or 0) % 2 or not 0 < half <= most:
        raise ConfigError(f"samples {count}: expected an even number up to {2 * most}, members and non-members of {manifest}")
    return [by_member[member][i] for i in range(half) for member in (True, False)], np.tile([True, False], half)


def testbed_job(names: Sequence[str]) -> Job:
    """A scan of the test bed by some attacks at their defaults, with a CLIP where they compare by it.

    Raises:
        ConfigError: an unknown attack.
    """
    replica = {"model": TESTBED, "resolution_px": RESOLUTION_PX}
    attacks: dict[str, Any] = {name: {} for name in names}
    content = {"manifest": TESTBED, "replica": replica, "attacks": attacks, "clip": TESTBED, "run": "unused"}
    job = parse_job(content, "bench attacks")
    # A scorer with a CLIP embeds all images, whether an attack asks for it or not.
    return job if "clip" in job.needs() else job.model_copy(update={"clip": None})


def score_all(
    scorer: Scorer, pixels: NDArray[np.uint8], captions: Sequence[str], keys: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Score samples in batches.

    Args:
        scorer: attacks in front of a replica.
        pixels: (samples, side, side, 3) of 8 bits.
        captions: caption of each sample.
        keys: key of each sample.

    Returns:
        (samples,) scores by signal.

    Raises:
        ConfigError: a sample could not be scored.
    """
    rows: list[dict[str, Any]] = []
    for start in range(0, len(keys), SCORING_BATCH):
        part = slice(start, start + SCORING_BATCH)
        for key, outcome in zip(keys[part], scorer.score(pixels[part], captions[part], keys[part]), strict=True):
            if isinstance(outcome, Fault):
                raise ConfigError(f"sample {key}: {outcome.reason}: {outcome.detail}")
            rows.append(outcome)
    return {name: np.array([row[name] for row in rows]) for name in rows[0] if name != EMBEDDING}
