"""The denoising loss: a model predicts the noise in its training images better."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raymia.attacks.base import Access, Attack, Evaluations, Signal
from raymia.replica.schedule import Schedule
from raymia.trial.frequency import Share, lowpass
from raymia.trial.parameters import Draws, Timesteps, draws_at
from raymia.trial.trial import CAPTION, Trial, mean_squared


class Loss(Attack):
    """Minus the mean squared error of the prediction, averaged over timesteps and draws.

    score = -mean over t, k of w(t) L(t, k, c), with L(t, k, c) = mean over elements of (e_k - E(z_t, t, c))^2, which
    ``loss.t=<t>`` is of one t. w is 1 for models that predict noise; for v-prediction and flows w L is the error of the
    velocity, which they were trained on. With ``noise: own`` the i-th of n timesteps takes draws i, i + n, i + 2n, .. and
    shares none with another: the mean then varies less from draw to draw, for as many evaluations. ``loss.lowpass`` is of
    errors with their high frequencies scaled down, as FreMIA does (arXiv 2505.20955).

    Source: Carlini et al., Extracting Training Data from Diffusion Models, arXiv 2301.13188, section 5.
    """

    name: ClassVar = "loss"
    access: ClassVar = Access.GREY
    reference: ClassVar = "Carlini et al. 2023, arXiv 2301.13188"

    timesteps: Timesteps = Field((100, 200, 300, 400, 500), description="Timesteps at which the loss is taken.")
    draws: int = Field(5, ge=1, description="Noise draws per timestep.")
    noise: Draws = Field(
        "shared",
        description="`shared`: the k-th draw is the same at all timesteps, so that other attacks find evaluations made; `own`: "
        "every timestep has draws of its own, which is worth more per forward where `loss` runs alone.",
    )
    keep: Share = Field(0.16, description="Share of the side of the spectrum that `.lowpass` keeps.")

    def check(self, schedule: Schedule) -> None:
        schedule.check(*self.timesteps)

    def signals(self) -> list[Signal]:
        return [Signal("loss", primary=True), *(Signal(f"loss.t={t}") for t in self.timesteps), Signal("loss.lowpass")]

    def cost(self) -> Evaluations:
        return Evaluations(forwards=len(self.timesteps) * self.draws, encodes=1)

    def score(self, trial: Trial) -> dict[str, Tensor]:
        places = {t: draws_at(i, len(self.timesteps), self.draws, self.noise) for i, t in enumerate(self.timesteps)}
        trial.evaluate((t, k, CAPTION) for t, draws in places.items() for k in draws)
        per_t = {t: -torch.stack([trial.loss(t, k) for k in draws]).mean(0) for t, draws in places.items()}
        scores = {"loss": self._mean(trial, per_t), **{f"loss.t={t}": score for t, score in per_t.items()}}
        low = {t: -torch.stack([self._low(trial, t, k) for k in draws]).mean(0) for t, draws in places.items()}
        return scores | {"loss.lowpass": self._mean(trial, low)}

    def _mean(self, trial: Trial, per_t: dict[int, Tensor]) -> Tensor:
        return torch.stack([trial.error_weight(t) * score for t, score in per_t.items()]).mean(0)

    def _low(self, trial: Trial, t: int, draw: int) -> Tensor:
        return mean_squared(lowpass(trial.noise(draw) - trial.predicted_noise(t, draw), self.keep))
