"""Scores batches of decoded images with one replica; a bare loop, a notebook and a Ray actor use it alike."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from raymia.attacks.base import Attack, signal_key
from raymia.attacks.trial import ImageEmbedder, PerceptualDistance, Trial
from raymia.config import Job
from raymia.data.tar import Fault
from raymia.replica.protocol import Replica
from raymia.replica.shared import Evaluations
from raymia.replica.stable_diffusion import StableDiffusion, find_pipeline
from raymia.testbed import clip_folder, model_folder

log = logging.getLogger(__name__)

EMBEDDING = "clip_embedding"

Scores = dict[str, float | list[float]]
"""By signal name, and the CLIP image embedding where a CLIP is configured."""
# What a replica or an attack raises when it cannot take a sample; anything else is a fault of the program and ends the scan.
SCORING_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, ArithmeticError)


class Scorer:
    """One replica with its attacks.

    Attributes:
        replica: the model in front of which the attacks run.
        evaluations: model evaluations made so far, in images.
        transfer_s: seconds spent so far on bringing images to the device.
    """

    def __init__(
        self,
        replica: Replica,
        attacks: Mapping[str, Attack],
        seed: int,
        clip: ImageEmbedder | None = None,
        lpips: PerceptualDistance | None = None,
    ) -> None:
        self.replica = replica
        self._attacks = attacks
        self._seed = seed
        self._clip = clip
        self._lpips = lpips
        self.evaluations = Evaluations()
        self.transfer_s = 0.0

    @classmethod
    def from_job(cls, job: Job, dtype: str, device: str, threads: int | None = None) -> Scorer:
        """Load what a job names.

        Args:
            dtype: one of ``float32``, ``bfloat16``, ``float16``.
            device: ``cpu`` or ``cuda``.
            threads: CPU threads that this process may use; none leaves torch's default.

        Raises:
            ConfigError: the model, the CLIP or the LPIPS cannot be loaded.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        folder = find_pipeline(model_folder(job.replica.model), with_weights=True, revision=job.replica.revision)
        told = job.replica
        precise = any(attack.precise for attack in job.attacks.values())
        replica = StableDiffusion(folder, dtype, device, told.resolution_px, told.unet_batch, told.compile, precise)
        clip, lpips = None, None
        # open_clip and lpips take seconds to import, which most replicas need not spend.
        if job.clip:
            from raymia.clip import Clip

            clip = Clip(clip_folder(job.clip), replica.device)
        if "lpips" in job.needs():
            from raymia.perceptual import Lpips

            lpips = Lpips(job.lpips.net, job.lpips.trunk, replica.device)
        return cls(replica, job.attacks, job.seed, clip, lpips)

    def encode(self, pixels: NDArray[np.uint8]) -> Float[np.ndarray, "batch c h w"]:
        """Latents of (batch, side, side, 3) upright RGB, for `score` to take instead of encoding."""
        latents: NDArray[np.float32] = self.replica.encode(images_on(self.replica.device, pixels)).float().cpu().numpy()
        self.evaluations.encodes += len(pixels)
        return latents

    def score(
        self,
        pixels: NDArray[np.uint8] | None,
        captions: Sequence[str],
        keys: Sequence[str],
        latents: Float[np.ndarray, "batch c h w"] | None = None,
    ) -> list[Scores | Fault]:
        """Scores of each sample by signal name, or why it could not be scored.

        A batch that runs out of memory is halved. A batch that fails otherwise is scored sample by sample, so that only
        the samples at fault are lost.

        Args:
            pixels: (batch, side, side, 3) upright RGB; none where there are latents and no attack works on images.
            captions, keys: one per sample.
            latents: what `encode` gave for the images.

        Raises:
            RuntimeError and the like: every sample of a larger batch failed, so it is not the samples' fault.
        """

        def part(which: slice) -> list[Scores | Fault]:
            images, known = (None if array is None else array[which] for array in (pixels, latents))
            return self.score(images, captions[which], keys[which], known)

        try:
            return self._score_together(pixels, captions, keys, latents)
        except torch.OutOfMemoryError as error:
            if len(keys) == 1:
                return [Fault("out_of_memory", str(error).splitlines()[0])]
            torch.cuda.empty_cache()
            half = len(keys) // 2
            log.warning("out of memory at batch %d; going on at %d", len(keys), half)
            return part(slice(None, half)) + part(slice(half, None))
        except SCORING_ERRORS as error:
            if len(keys) == 1:
                return [Fault("scoring_failed", f"{type(error).__name__}: {error}")]
            alone = [part(slice(i, i + 1))[0] for i in range(len(keys))]
            if all(isinstance(outcome, Fault) and outcome.reason == "scoring_failed" for outcome in alone):
                raise
            return alone

    def _score_together(
        self,
        pixels: NDArray[np.uint8] | None,
        captions: Sequence[str],
        keys: Sequence[str],
        latents: Float[np.ndarray, "batch c h w"] | None,
    ) -> list[Scores | Fault]:
        start = time.perf_counter()
        images = None if pixels is None else images_on(self.replica.device, pixels)
        z = None if latents is None else torch.tensor(latents, device=self.replica.device)
        self.transfer_s += time.perf_counter() - start
        trial = Trial(self.replica, images, captions, keys, self._seed, self._clip, self._lpips, latents=z)
        columns: dict[str, Tensor] = {}
        for key, attack in self._attacks.items():
            columns |= {signal_key(signal, attack, key): scores for signal, scores in attack.score(trial).items()}
        for count in fields(Evaluations):
            total = getattr(self.evaluations, count.name) + getattr(trial.evaluations, count.name)
            setattr(self.evaluations, count.name, total)
        table = torch.stack([column.double() for column in columns.values()], dim=1).cpu().numpy()
        outcomes = [_finite(dict(zip(columns, map(float, row), strict=True))) for row in table]
        if self._clip is not None:
            for outcome, embedding in zip(outcomes, trial.embedding(trial.images).cpu().tolist(), strict=True):
                if not isinstance(outcome, Fault):
                    outcome[EMBEDDING] = embedding
        return outcomes


def images_on(device: torch.device, pixels: NDArray[np.uint8]) -> Float[Tensor, "batch 3 H W"]:
    """Images in [-1, 1] on a device, from (batch, H, W, 3) pixels; to a GPU go bytes, through pinned memory."""
    copied = torch.tensor(pixels)
    if device.type == "cuda":
        copied = copied.pin_memory()
    return copied.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def _finite(scores: Scores) -> Scores | Fault:
    broken = [name for name, value in scores.items() if not np.isfinite(value)]
    return Fault("non_finite", f"not a finite number: {', '.join(broken)}") if broken else scores
