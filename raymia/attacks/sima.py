"""SimA: at the clean image itself, the predicted noise is smaller for training images."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator
from torch import Tensor

from raymia.attacks.base import Access, Attack, Evaluations, Signal
from raymia.replica.schedule import Schedule
from raymia.trial.frequency import Share, lowpass
from raymia.trial.parameters import Timestep, Timesteps, require_among
from raymia.trial.trial import Trial, norm


class SimA(Attack):
    """Minus the p-norm of the noise predicted in the clean latents, told that they stand at timestep t.

    score = -||E(z_0, t, c)||_p. The prediction points away from the nearest training images, so that it is short at one.
    ``sima.lowpass`` is the same of the prediction with its high frequencies scaled down.

    Source: Rao et al., Score-based Membership Inference on Diffusion Models, arXiv 2509.25003; the filter is FreMIA's, arXiv
    2505.20955.
    """

    name: ClassVar = "sima"
    access: ClassVar = Access.GREY
    reference: ClassVar = "Rao et al. 2025, arXiv 2509.25003"

    timesteps: Timesteps = Field((10, 50, 100, 300), description="Timesteps, each a signal.")
    timestep: Timestep = Field(100, description="The one of `timesteps` that is the primary signal.")
    p: float = Field(4.0, ge=1.0, description="Order of the norm.")
    keep: Share = Field(0.16, description="Share of the side of the spectrum that `.lowpass` keeps.")

    @model_validator(mode="after")
    def _primary_is_computed(self) -> Self:
        require_among(self.timestep, self.timesteps)
        return self

    def check(self, schedule: Schedule) -> None:
        schedule.check(*self.timesteps)

    def signals(self) -> list[Signal]:
        return [Signal("sima", primary=True), *(Signal(f"sima.t={t}") for t in self.timesteps), Signal("sima.lowpass")]

    def cost(self) -> Evaluations:
        return Evaluations(forwards=len(self.timesteps), encodes=1)

    def score(self, trial: Trial) -> dict[str, Tensor]:
        predicted = trial.model.predicted_noises([(trial.latents, t, trial.text()) for t in self.timesteps])
        by_t = dict(zip(self.timesteps, predicted, strict=True))
        norms = {t: norm(noise, self.p) for t, noise in by_t.items()}
        scores = {"sima": -norms[self.timestep], **{f"sima.t={t}": -length for t, length in norms.items()}}
        return scores | {"sima.lowpass": -norm(lowpass(by_t[self.timestep], self.keep), self.p)}
