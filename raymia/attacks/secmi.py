"""SecMI: a deterministic step up and back lands closer to where it started for training images."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator
from torch import Tensor

from raymia.attacks.base import Access, Attack, Evaluations, Signal
from raymia.replica.schedule import Schedule, ddim_move
from raymia.trial.parameters import Timestep, Timesteps, require_among
from raymia.trial.trial import Trial


class SecMI(Attack):
    """Minus the squared error of one DDIM step up and one back, at latents reached by DDIM inversion.

    z~_t follows from z_0 by DDIM inversion over 0, k, .., t; z'_t by one step from z~_t up to t + k and one back.
    score = -||z'_t - z~_t||^2. Every step is deterministic. The predictions up and back nearly cancel each other, so that they
    are made in float32 whatever the replica computes in. ``secmi.t=T`` is the score at T; the inversion passes through all of
    them on its way and needs both predictions itself, so that further ones cost nothing.

    Source: Duan et al., Are Diffusion Models Vulnerable to Membership Inference Attacks?, arXiv 2302.01316, eq. 9.
    """

    name: ClassVar = "secmi"
    access: ClassVar = Access.GREY
    reference: ClassVar = "Duan et al. 2023, arXiv 2302.01316"
    precise: ClassVar = True

    timesteps: Timesteps = Field((20, 50, 100), description="Timesteps, each a signal; positive multiples of `step`.")
    timestep: Timestep = Field(100, description="t: where the error is measured, among `timesteps`.")
    step: int = Field(10, ge=1, description="k: stride of the DDIM moves in timesteps.")

    @model_validator(mode="after")
    def _multiples(self) -> Self:
        require_among(self.timestep, self.timesteps)
        for t in self.timesteps:
            if t == 0 or t % self.step:
                raise ValueError(f"timestep {t} is not a positive multiple of step {self.step}")
        return self

    def check(self, schedule: Schedule) -> None:
        schedule.check(max(self.timesteps) + self.step)

    def signals(self) -> list[Signal]:
        return [Signal("secmi", primary=True), *(Signal(f"secmi.t={t}") for t in self.timesteps)]

    def cost(self) -> Evaluations:
        return Evaluations(forwards=max(self.timesteps) // self.step + 2, encodes=1)

    def score(self, trial: Trial) -> dict[str, Tensor]:
        z, scores = trial.latents, {}
        for t in range(0, max(self.timesteps) + self.step, self.step):
            precise = t in self.timesteps or t - self.step in self.timesteps
            up = self._move(trial, z, t, t + self.step, precise)
            if t in self.timesteps:
                back = self._move(trial, up, t + self.step, t, precise=True)
                scores[f"secmi.t={t}"] = -(back - z).square().flatten(1).sum(1)
            z = up
        return {"secmi": scores[f"secmi.t={self.timestep}"], **scores}

    @staticmethod
    def _move(trial: Trial, z: Tensor, t: int, u: int, precise: bool) -> Tensor:
        return ddim_move(trial.schedule, z, trial.predicted_noise_at(z, t, precise=precise), t, u)
