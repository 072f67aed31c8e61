"""Gradient masking: where the loss is most sensitive, a model restores the training image's content from noise."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raymia.attacks.base import Access, Attack, Evaluations, Signal
from raymia.replica.schedule import Schedule, mix
from raymia.trial.parameters import MicroBatch, Timesteps
from raymia.trial.trial import Trial, norm


class GradientMasking(Attack):
    """Minus the error at the latent elements with the largest gradients, after these were replaced by noise.

    The mask holds the largest elements of |grad L| with respect to z_t. Those elements of z_0 are replaced by the noise e,
    the result is noised to t with the same e, and score = -||((e - z_0) - E)[mask]||_2, averaged over timesteps
    as errors in the space that the model was trained in, as in ``loss``. ``gradient_masking.clean`` follows the published
    code, which shows the model the masked latents without noising them to t. ``gradient_masking.input`` is minus the mean over
    timesteps of ||grad L||_2, of the gradients that the mask is made from.

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
        further = ("clean", "input", *(f"t={t}" for t in self.timesteps))
        return [Signal("gradient_masking", primary=True), *(Signal(f"gradient_masking.{name}") for name in further)]

    def cost(self) -> Evaluations:
        count = len(self.timesteps)
        return Evaluations(forwards=3 * count, backwards=count, encodes=1)

    def score(self, trial: Trial) -> dict[str, Tensor]:
        noised, clean, lengths = zip(*(self._at(trial, t) for t in self.timesteps), strict=True)
        weights = [trial.error_weight(t) for t in self.timesteps]

        def mean(errors: tuple[Tensor, ...], power: float) -> Tensor:
            return torch.stack([weight**power * error for weight, error in zip(weights, errors, strict=True)]).mean(0)

        return {
            "gradient_masking": -mean(noised, 0.5),
            "gradient_masking.clean": -mean(clean, 0.5),
            "gradient_masking.input": -mean(lengths, 1.0),
            **{f"gradient_masking.t={t}": -error for t, error in zip(self.timesteps, noised, strict=True)},
        }

    def _at(self, trial: Trial, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """Errors under the mask of noised and of clean masked latents, and the length of the gradient; each (batch,)."""
        noise, latents = trial.noise(0), trial.latents
        _, gradients = trial.latent_gradients(trial.noisy(t, 0), t, 0, self.micro_batch)
        mask = largest(gradients, self.share)
        masked = torch.where(mask, noise, latents)
        shown = (mix(trial.schedule, masked, noise, t), masked)
        predicted = trial.model.predicted_noises([(z, t, trial.text()) for z in shown])
        noised, clean = (norm(torch.where(mask, noise - latents - each, 0.0)) for each in predicted)
        return noised, clean, norm(gradients)


def largest(gradients: Tensor, share: float) -> Tensor:
    """Mask of each sample's `share` of elements (at least one) with the largest absolute value."""
    flat = gradients.abs().flatten(1)
    chosen = flat.topk(max(1, round(share * flat.shape[1])), dim=1).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, chosen, True).view_as(gradients)
