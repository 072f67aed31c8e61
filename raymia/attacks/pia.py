"""PIA: the noise predicted at the clean image is predicted again at a noisy one, more faithfully for training images."""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.linalg import vector_norm

from raymia.attacks.base import Access, Attack, Evaluations, Signal
from raymia.replica.schedule import Schedule, mix
from raymia.trial.frequency import Share, lowpass
from raymia.trial.parameters import Timestep
from raymia.trial.trial import Trial


class PIA(Attack):
    """Minus the p-norm between the noise predicted at the clean latents and the noise predicted where it was added.

    e0 = E(z_0, 0, c); score = -||e0 - E(alpha_t z_0 + sigma_t e0, t, c)||_p. For ``pia.normalised`` (PIAN), e0 is first
    scaled so that its mean absolute value is sqrt(2 / pi), that of standard normal noise. ``pia.lowpass`` is the norm of the
    difference with its high frequencies scaled down, as FreMIA does (arXiv 2505.20955).

    Source: Kong et al., An Efficient Membership Inference Attack for the Diffusion Model by Proximal Initialization,
    arXiv 2305.18355, eqs. 11 and 12.
    """

    name: ClassVar = "pia"
    access: ClassVar = Access.GREY
    reference: ClassVar = "Kong et al. 2023, arXiv 2305.18355"

    timestep: Timestep = Field(500, description="t: where e0 is added and predicted again.")
    p: float = Field(4.0, ge=1.0, description="Order of the norm.")
    keep: Share = Field(0.16, description="Share of the side of the spectrum that `.lowpass` keeps.")

    def check(self, schedule: Schedule) -> None:
        schedule.check(0, self.timestep)

    def signals(self) -> list[Signal]:
        return [Signal("pia", primary=True), Signal("pia.normalised"), Signal("pia.lowpass")]

    def cost(self) -> Evaluations:
        return Evaluations(forwards=3, encodes=1)

    def score(self, trial: Trial) -> dict[str, Tensor]:
        e0 = trial.predicted_noise_at(trial.latents, 0)
        mean_abs = e0.abs().mean(dim=(1, 2, 3), keepdim=True)
        normalised = e0 * (math.sqrt(2.0 / math.pi) / mean_abs)
        z_t = [mix(trial.schedule, trial.latents, noise, self.timestep) for noise in (e0, normalised)]
        again = trial.model.predicted_noises([(z, self.timestep, trial.text()) for z in z_t])
        return {
            "pia": self._score(e0 - again[0]),
            "pia.normalised": self._score(normalised - again[1]),
            "pia.lowpass": self._score(lowpass(e0 - again[0], self.keep)),
        }

    def _score(self, error: Tensor) -> Tensor:
        norm: Tensor = vector_norm(error.flatten(1), ord=self.p, dim=1)
        return -norm
