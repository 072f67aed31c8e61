"""Gradient masking: where the loss is most sensitive, a model restores the training image's content from noise."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.linalg import vector_norm

from raymia.attacks.base import Access, Attack, Evaluations, Signal
from raymia.replica.schedule import Schedule, mix
from raymia.trial.parameters import MicroBatch, Timesteps
from raymia.trial.trial import Trial


class GradientMasking(Attack):
    """Minus the error at the latent elements with the largest gradients, after these were replaced by noise.

    The mask holds the largest elements of |grad L| with respect to z_t. Those elements of z_0 are replaced by the noise e,
    the result is noised to t with the same e, and score = -||((e - z_0) - E)[mask]||_2, averaged over timesteps
    as errors in the space that the model was trained in, as in ``loss``.

    Source: Dubinski et al., CDI: Copyrighted Data Identification in Diffusion Models, arXiv 2411.12858, section 4.
    """

    name: ClassVar = "gradient_masking"
    access: ClassVar = Access.WHITE
    reference: ClassVar = "Dubinski et al. 2024, arXiv 2411.12858"

    timesteps: Timesteps = Field(tuple(range(50, 550, 50)), description="Timesteps, each a signal.")
    share: float = Field(0.2, gt=0, le=1, description="Share of the latent elements that are masked.")
    micro_batch: MicroBatch = Field(16, description="Samples in one backward pass.")

    def check(self, schedule: Schedule) -> None:
        schedule.check(*self.timesteps)

    def signals(self) -> list[Signal]:
        return [Signal("gradient_masking", primary=True), *(Signal(f"gradient_masking.t={t}") for t in self.timesteps)]

    def cost(self) -> Evaluations:
        count = len(self.timesteps)
        return Evaluations(forwards=2 * count, backwards=count, encodes=1)

    def score(self, trial: Trial) -> dict[str, Tensor]:
        noise, latents = trial.noise(0), trial.latents
        errors = {}
        for t in self.timesteps:
            _, gradients = trial.latent_gradients(trial.noisy(t, 0), t, 0, self.micro_batch)
            mask = largest(gradients, self.share)
            masked = mix(trial.schedule, torch.where(mask, noise, latents), noise, t)
            difference = (noise - latents) - trial.predicted_noise_at(masked, t)
            errors[t] = vector_norm(torch.where(mask, difference, 0.0).flatten(1), dim=1)
        mean = torch.stack([trial.error_weight(t) ** 0.5 * error for t, error in errors.items()]).mean(0)
        return {"gradient_masking": -mean, **{f"gradient_masking.t={t}": -error for t, error in errors.items()}}


def largest(gradients: Tensor, share: float) -> Tensor:
    """Mask of each sample's `share` of elements (at least one) with the largest absolute value."""
    flat = gradients.abs().flatten(1)
    chosen = flat.topk(max(1, round(share * flat.shape[1])), dim=1).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, chosen, True).view_as(gradients)
