"""Scores batches of decoded images with one replica; a bare loop, a notebook and a Ray actor use it alike."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from raymia.attacks.base import Attack
from raymia.config import Job
from raymia.data.shapes import Placed
from raymia.data.tar import Fault
from raymia.errors import first_line
from raymia.replica.conditioning import UntellableError
from raymia.replica.device import available, onto
from raymia.replica.folder import find_pipeline
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.replica.protocol import Replica
from raymia.run.columns import EMBEDDING
from raymia.run.record import Evaluations
from raymia.run.shown import COLUMN
from raymia.scan.asked import queries_of
from raymia.scan.calibration import Found, Reference, calibrated, scores_of
from raymia.scan.shown import shown_of
from raymia.scan.texts import staged_text
from raymia.scan.told import require_told
from raymia.services.gate import Turns
from raymia.services.protocol import AskedAhead, BlackBox, Service, ServiceError, Surroundings
from raymia.shipped import clip_folder, model_folder
from raymia.trial.trial import ImageEmbedder, PerceptualDistance, Trial

log = logging.getLogger(__name__)

NO_RUN = "-"
"""The run directory of a job that has none."""

Scores = dict[str, Any]
"""By signal name, the CLIP image embedding where a CLIP is configured, and what attacks show beside their scores."""
# What a replica or an attack raises when it cannot take a sample; anything else is a fault of the program and ends the scan.
SCORING_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, ArithmeticError)


class Scorer:
    """One replica, or one service, with its attacks.

    Attributes:
        device: where images are put.
        evaluations: model evaluations made so far, in images.
        transfer_s: seconds spent so far on bringing images to the device.
    """

    def __init__(
        self,
        replica: Replica | None,
        attacks: Mapping[str, Attack],
        seed: int,
        clip: ImageEmbedder | None = None,
        lpips: PerceptualDistance | None = None,
        black_box: BlackBox | None = None,
        device: torch.device | None = None,
        own_sizes: bool = False,
        reference: Reference | None = None,
        copies: ImageEmbedder | None = None,
        service: Service | None = None,
    ) -> None:
        """Take what is loaded.

        Args:
            replica: the attacked model; none where a service is attacked.
            attacks: by their names in the job.
            seed: of all noise.
            clip, lpips: models beside it, for attacks that compare by them.
            black_box: the attacked service; by default the local pipeline over the replica.
            device: where images are put; by default the replica's.
            own_sizes: tell the model of the size of each image's file.
            reference: against which scores are held, too.
            copies: copy detector, for attacks that look for copies.
            service: whose answers `black_box` gives; it knows which seeds it is told.
        """
        self._reference = reference
        self._replica = replica
        self._attacks = attacks
        self._seed = seed
        self._clip = clip
        self._lpips = lpips
        self._copies = copies
        self._service = service
        self._black_box = black_box
        self._own_sizes = own_sizes
        self._largest: int | None = None
        self.device = device or (torch.device("cpu") if replica is None else replica.device)
        self.evaluations = Evaluations()
        self.transfer_s = 0.0

    @property
    def replica(self) -> Replica:
        """The model in front of which the attacks run.

        Raises:
            ValueError: a service is attacked.
        """
        if self._replica is None:
            raise ValueError("a service is attacked, and no model of ours")
        return self._replica

    def encode(self, pixels: NDArray[np.uint8]) -> Float[np.ndarray, "batch c h w"]:
        """Latents of (batch, side, side, 3) upright RGB, for `score` to take instead of encoding."""
        latents: NDArray[np.float32] = self.replica.encode(images_on(self.device, pixels)).float().cpu().numpy()
        self.evaluations.encodes += len(pixels)
        return latents

    def score(
        self,
        pixels: NDArray[np.uint8] | None,
        captions: Sequence[str],
        keys: Sequence[str],
        sizes: Sequence[Placed] | None = None,
        latents: Float[np.ndarray, "batch c h w"] | None = None,
    ) -> list[Scores | Fault]:
        """Scores of each sample by signal name, or why it could not be scored.

        A batch that runs out of memory is halved, and no later one is tried at its size; what was found before is kept. A
        batch that fails otherwise, that a service refuses, or of which the model cannot be told a caption, is scored sample by
        sample, so that only the samples at fault are lost.

        Args:
            pixels: (batch, side, side, 3) upright RGB; none where there are latents and no attack works on images.
            captions, keys: one per sample.
            sizes: of each image's file and its crop, which a model that is told of them needs.
            latents: what `encode` gave for the images.

        Raises:
            RuntimeError and the like: every sample of a larger batch failed, so it is not the samples' fault.
        """
        return self._in_parts(_Batch(pixels, captions, keys, sizes, latents))

    def _in_parts(self, batch: _Batch) -> list[Scores | Fault]:
        """Scores of a batch, in parts of a size that fits."""
        size = min(len(batch), self._largest or len(batch))
        parts = [batch] if size == len(batch) else [batch[start : start + size] for start in range(0, len(batch), size)]
        return [outcome for part in parts for outcome in self._tried(part)]

    def _tried(self, batch: _Batch) -> list[Scores | Fault]:
        try:
            return self._score_together(batch)
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                return [Fault("out_of_memory", first_line(error))]
        except (ServiceError, UntellableError) as error:
            if len(batch) == 1:
                return [Fault(error.reason, error.detail)]
            return self._one_by_one(batch)
        except SCORING_ERRORS as error:
            if len(batch) == 1:
                return [Fault("scoring_failed", f"{type(error).__name__}: {error}")]
            alone = self._one_by_one(batch)
            if all(isinstance(outcome, Fault) and outcome.reason == "scoring_failed" for outcome in alone):
                raise
            return alone
        # After the handler: while an error is handled, its traceback holds the tensors of the call.
        torch.cuda.empty_cache()
        self._largest = len(batch) // 2
        log.warning("out of memory at batch %d; from now on batches are cut to %d", len(batch), self._largest)
        return self._in_parts(batch)

    def _one_by_one(self, batch: _Batch) -> list[Scores | Fault]:
        return [self._tried(batch[i : i + 1])[0] for i in range(len(batch))]

    def _score_together(self, batch: _Batch) -> list[Scores | Fault]:
        start = time.perf_counter()
        images = None if batch.pixels is None else images_on(self.device, batch.pixels)
        if isinstance(batch.latents, np.ndarray):
            batch.latents = onto(self.device, torch.tensor(batch.latents))
        self.transfer_s += time.perf_counter() - start
        sizes = torch.tensor(batch.sizes, dtype=torch.float32) if self._own_sizes and batch.sizes is not None else None
        trial = Trial(
            self._replica,
            images,
            batch.captions,
            batch.keys,
            self._seed,
            self._clip,
            self._lpips,
            self._black_box,
            latents=batch.latents,
            sizes=sizes,
            copies=self._copies,
        )
        if isinstance(self._black_box, AskedAhead):
            self._black_box.ask_ahead(queries_of(self._attacks, trial.images, batch.captions, batch.keys, self._seed))
        other = None if self._reference is None else self._reference.trial(trial)
        try:
            columns = scores_of(self._attacks, trial, batch.found)
            if self._reference is not None and other is not None:
                columns |= calibrated(self._attacks, other, columns, self._reference, batch.of_reference)
            shown = shown_of(self._attacks, trial, self._service, self._black_box)
        finally:
            # Of a batch that failed, too.
            batch.latents = trial.latents_at_hand
            self.evaluations = self.evaluations + trial.evaluations
            if other is not None:
                self.evaluations = self.evaluations + other.evaluations
        table = torch.stack([column.double() for column in columns.values()], dim=1).cpu().numpy()
        outcomes = [_finite(dict(zip(columns, map(float, row), strict=True))) for row in table]
        if self._clip is not None:
            for outcome, embedding in zip(outcomes, trial.embedding(trial.images).cpu().tolist(), strict=True):
                if not isinstance(outcome, Fault):
                    outcome[EMBEDDING] = embedding
        for outcome, items in zip(outcomes, shown, strict=True):
            if items and not isinstance(outcome, Fault):
                outcome[COLUMN] = items
        return outcomes


@dataclass
class _Batch:
    """Samples to be scored, and what was found of them before it failed.

    Attributes:
        pixels, captions, keys, sizes: see `Scorer.score`.
        latents: as they were given, or on the device.
        found, of_reference: columns of attacks, of the attacked model and of the reference.
    """

    pixels: NDArray[np.uint8] | None
    captions: Sequence[str]
    keys: Sequence[str]
    sizes: Sequence[Placed] | None
    latents: Float[np.ndarray, "batch c h w"] | Tensor | None
    found: Found = field(default_factory=dict)
    of_reference: Found = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows: slice) -> _Batch:
        return _Batch(
            None if self.pixels is None else self.pixels[rows],
            self.captions[rows],
            self.keys[rows],
            None if self.sizes is None else self.sizes[rows],
            None if self.latents is None else self.latents[rows],
            _rows_of(self.found, rows),
            _rows_of(self.of_reference, rows),
        )


def _rows_of(found: Found, rows: slice) -> Found:
    return {key: {name: scores[rows] for name, scores in columns.items()} for key, columns in found.items()}


def load_scorer(job: Job, dtype: str, device: str, threads: int | None = None, turns: Turns | None = None) -> Scorer:
    """Load what a job names.

    Args:
        job: with the model or service, and the attacks.
        dtype: one of ``float32``, ``bfloat16``, ``float16``.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads that this process may use; none leaves torch's default.
        turns: in which the attacked service is called; by default this process counts for itself.

    Raises:
        ConfigError: the model, the CLIP, the LPIPS or the copy detector cannot be loaded, or the service cannot be opened.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    # A service answers on the CPU, whatever the pool is given.
    place = torch.device(available(device) if job.hosted is None else "cpu")
    replica = _load_model(job, dtype, device) if job.hosted is None else None
    black_box = (
        None if job.hosted is None else job.hosted.open(None, Surroundings(None if job.run == NO_RUN else job.run, turns))
    )
    clip, lpips, copies = None, None, None
    # open_clip and lpips take seconds to import, which most replicas need not spend.
    if job.clip:
        from raymia.features.clip import Clip

        clip = Clip(clip_folder(job.clip), place)
    if "lpips" in job.needs():
        from raymia.features.lpips import Lpips

        lpips = Lpips(job.lpips.net, job.lpips.trunk, place)
    if job.copies is not None and "copies" in job.needs():
        from raymia.features.copies import load_copies

        copies = clip if job.copies == "clip" else load_copies(job.copies, job.clip, place)
    own_sizes = job.hosted is None and job.model.micro_conditions == "own"
    reference = None if replica is None else _load_reference(job, replica, dtype, device)
    return Scorer(
        replica, job.attacks, job.seed, clip, lpips, black_box, place, own_sizes, reference, copies, service=job.hosted
    )


def _load_reference(job: Job, replica: Replica, dtype: str, device: str) -> Reference | None:
    """What a job holds scores against, beside its model's replica."""
    other = job.reference_job()
    if other is not None:
        both = (job.model, other.model)
        folders = [find_pipeline(model_folder(one.model), True, one.revision, one.said()) for one in both]
        same = folders[0].autoencoder_digest() == folders[1].autoencoder_digest()
        return Reference(_load_model(other, dtype, device), same_latents=same, same_texts=False)
    if job.reference != "base":
        return None
    assert isinstance(replica, LatentDiffusion)
    return Reference(replica, True, replica.told_alike(), replica.without_adapters)


def _load_model(job: Job, dtype: str, device: str) -> Replica:
    """Load the model that a job attacks."""
    config = job.model
    precise = any(attack.precise for attack in job.attacks.values())
    options = config.options(dtype, device, precise, job.pool.gpus if device == "cuda" else 1)
    if config.text == "stage":
        options = replace(options, staged=staged_text(job.run))
    pipeline = find_pipeline(model_folder(config.model), with_weights=True, revision=config.revision, said=config.said())
    require_told(job, pipeline)
    return pipeline.load(options)


def images_on(device: torch.device, pixels: NDArray[np.uint8]) -> Float[Tensor, "batch 3 H W"]:
    """Images in [-1, 1] on a device, from (batch, H, W, 3) pixels; to a GPU go bytes, through pinned memory."""
    return onto(device, torch.tensor(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def _finite(scores: Scores) -> Scores | Fault:
    broken = [name for name, value in scores.items() if not np.isfinite(value)]
    return Fault("non_finite", f"not a finite number: {', '.join(broken)}") if broken else scores
