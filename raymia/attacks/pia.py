"""PIA: the noise predicted at the clean image is predicted again at a noisy one, more faithfully for training images."""

from __future__ import annotations

import math
from typing import ClassVar, Self

from pydantic import Field, model_validator
from torch import Tensor

from raymia.attacks.base import Access, Attack, Evaluations, Signal
from raymia.replica.schedule import Schedule, mix
from raymia.trial.frequency import Share, lowpass
from raymia.trial.parameters import Timestep, Timesteps, require_among
from raymia.trial.trial import Trial, norm

EUCLIDEAN = 2.0


class PIA(Attack):
    """Minus the p-norm between the noise predicted at the clean latents and the noise predicted where it was added.

    e0 = E(z_0, 0, c); score = -||e0 - E(alpha_t z_0 + sigma_t e0, t, c)||_p. For ``pia.normalised`` (PIAN), e0 is first
    scaled so that its mean absolute value is sqrt(2 / pi), that of standard normal noise. ``pia.lowpass`` is the norm of the
    difference with its high frequencies scaled down, as FreMIA does (arXiv 2505.20955). ``pia.t=T`` is the score at T, and
    ``pia.t=T.p=2`` its Euclidean norm.

    Source: Kong et al., An Efficient Membership Inference Attack for the Diffusion Model by Proximal Initialization,
    arXiv 2305.18355, eqs. 11 and 12.
    """

    name: ClassVar = "pia"
    access: ClassVar = Access.GREY
    reference: ClassVar = "Kong et al. 2023, arXiv 2305.18355"

    timesteps: Timesteps = Field((200, 500), description="Timesteps, each a signal.")
    timestep: Timestep = Field(500, description="t: where e0 is added and predicted again, among `timesteps`.")
    p: float = Field(4.0, ge=1.0, description="Order of the norm.")
    keep: Share = Field(0.16, description="Share of the side of the spectrum that `.lowpass` keeps.")

    @model_validator(mode="after")
    def _primary_is_computed(self) -> Self:
        require_among(self.timestep, self.timesteps)
        return self

    def check(self, schedule: Schedule) -> None:
        schedule.check(0, *self.timesteps)

    def signals(self) -> list[Signal]:
        further = [name for t in self.timesteps for name in self._names(t)]
        return [Signal("pia", primary=True), Signal("pia.normalised"), Signal("pia.lowpass"), *map(Signal, further)]

    def cost(self) -> Evaluations:
        return Evaluations(forwards=2 + len(self.timesteps), encodes=1)

    def score(self, trial: Trial) -> dict[str, Tensor]:
        e0 = trial.predicted_noise_at(trial.latents, 0)
        mean_abs = e0.abs().mean(dim=(1, 2, 3), keepdim=True)
        normalised = e0 * (math.sqrt(2.0 / math.pi) / mean_abs)
        added = [(normalised, self.timestep), *((e0, t) for t in self.timesteps)]
        again = trial.model.predicted_noises([(mix(trial.schedule, trial.latents, e, t), t, trial.text()) for e, t in added])
        errors = {t: e0 - predicted for t, predicted in zip(self.timesteps, again[1:], strict=True)}
        scores = {
            "pia": -norm(errors[self.timestep], self.p),
            "pia.normalised": -norm(normalised - again[0], self.p),
            "pia.lowpass": -norm(lowpass(errors[self.timestep], self.keep), self.p),
        }
        for t, error in errors.items():
            scores |= {name: -norm(error, p) for name, p in self._names(t).items()}
        return scores

    def _names(self, t: int) -> dict[str, float]:
        """Signals of a timestep, with the orders of their norms."""
        return {f"pia.t={t}": self.p} | ({} if self.p == EUCLIDEAN else {f"pia.t={t}.p=2": EUCLIDEAN})
