"""The denoising loss: a model predicts the noise in its training images better."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raymia.attacks.base import Access, Attack, Cost, Signal
from raymia.attacks.parameters import Timesteps
from raymia.attacks.trial import CAPTION, Trial
from raymia.replica.schedule import Schedule


class Loss(Attack):
    """Minus the mean squared error of the predicted noise, averaged over timesteps and draws.

    score = -mean over t, k of L(t, k, c), with L(t, k, c) = mean over elements of (e_k - E(z_t, t, c))^2.

    Source: Carlini et al., Extracting Training Data from Diffusion Models, arXiv 2301.13188, section 5.
    """

    name: ClassVar = "loss"
    access: ClassVar = Access.GREY
    reference: ClassVar = "Carlini et al. 2023, arXiv 2301.13188"

    timesteps: Timesteps = Field((100, 200, 300, 400, 500), description="Timesteps at which the loss is taken.")
    draws: int = Field(5, ge=1, description="Noise draws per timestep.")

    def check(self, schedule: Schedule) -> None:
        schedule.check(*self.timesteps)

    def signals(self) -> list[Signal]:
        return [Signal("loss", primary=True), *(Signal(f"loss.t={t}") for t in self.timesteps)]

    def cost(self) -> Cost:
        return Cost(unet_forwards=len(self.timesteps) * self.draws, encodes=1)

    def score(self, trial: Trial) -> dict[str, Tensor]:
        trial.evaluate((t, k, CAPTION) for t in self.timesteps for k in range(self.draws))
        per_t = {t: -torch.stack([trial.loss(t, k) for k in range(self.draws)]).mean(0) for t in self.timesteps}
        scores = {"loss": torch.stack(list(per_t.values())).mean(0)}
        return scores | {f"loss.t={t}": score for t, score in per_t.items()}
