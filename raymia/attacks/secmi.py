"""SecMI: a deterministic step up and back lands closer to where it started for training images."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator
from torch import Tensor

from raymia.attacks.base import Access, Attack, Evaluations, Signal
from raymia.replica.schedule import Schedule, ddim_move
from raymia.trial.parameters import Timestep
from raymia.trial.trial import Trial


class SecMI(Attack):
    """Minus the squared error of one DDIM step up and one back, at latents reached by DDIM inversion.

    z~_t follows from z_0 by DDIM inversion over 0, k, .., t; z'_t by one step from z~_t up to t + k and one back.
    score = -||z'_t - z~_t||^2. Every step is deterministic. The last two predictions nearly cancel each other, so that they are
    made in float32 whatever the replica computes in.

    Source: Duan et al., Are Diffusion Models Vulnerable to Membership Inference Attacks?, arXiv 2302.01316, eq. 9.
    """

    name: ClassVar = "secmi"
    access: ClassVar = Access.GREY
    reference: ClassVar = "Duan et al. 2023, arXiv 2302.01316"
    precise: ClassVar = True

    timestep: Timestep = Field(100, description="t: where the error is measured; a positive multiple of `step`.")
    step: int = Field(10, ge=1, description="k: stride of the DDIM moves in timesteps.")

    @model_validator(mode="after")
    def _multiple(self) -> Self:
        if self.timestep == 0 or self.timestep % self.step:
            raise ValueError(f"timestep {self.timestep} is not a positive multiple of step {self.step}")
        return self

    def check(self, schedule: Schedule) -> None:
        schedule.check(self.timestep, self.timestep + self.step)

    def signals(self) -> list[Signal]:
        return [Signal("secmi", primary=True)]

    def cost(self) -> Evaluations:
        return Evaluations(forwards=self.timestep // self.step + 2, encodes=1)

    def score(self, trial: Trial) -> dict[str, Tensor]:
        z = trial.latents
        for t in range(0, self.timestep, self.step):
            z = self._move(trial, z, t, t + self.step)
        up = self._move(trial, z, self.timestep, self.timestep + self.step, precise=True)
        back = self._move(trial, up, self.timestep + self.step, self.timestep, precise=True)
        return {"secmi": -(back - z).square().flatten(1).sum(1)}

    @staticmethod
    def _move(trial: Trial, z: Tensor, t: int, u: int, precise: bool = False) -> Tensor:
        return ddim_move(trial.schedule, z, trial.predicted_noise_at(z, t, precise=precise), t, u)
