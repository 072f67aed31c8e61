"""ReDiffuse: slight variations of a training image average back to it."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from raymia.attacks.base import Access, Attack, Evaluations, Need, Signal
from raymia.replica.families import Ability
from raymia.replica.schedule import Schedule
from raymia.services.protocol import Capability
from raymia.trial.parameters import (
    Guidance,
    Timestep,
    Timesteps,
    asked_of_service,
    evaluations_per_step,
    require_among,
    told_under,
)
from raymia.trial.similarity import Metric, needs_of, similarity
from raymia.trial.trial import Trial


class ReDiffuse(Attack):
    """Similarity of x and the mean of n image-to-image variations of x at a low noise level, minus that of x and its decoding.

    The variations' errors are independent where the model knows the image, so that their mean is close to it. What the
    autoencoder alone makes of the image, decode(encode(x)), is subtracted: its error differs between images far more than
    membership does, and the published code avoids it by comparing with decoded latents. ``rediffuse.raw`` is without,
    ``rediffuse.t=T`` the score at T.

    Source: Li et al., Towards Black-Box Membership Inference Attack for Diffusion Models, arXiv 2405.20771, algorithm 1.
    """

    name: ClassVar = "rediffuse"
    access: ClassVar = Access.BLACK
    reference: ClassVar = "Li et al. 2024, arXiv 2405.20771"

    timesteps: Timesteps = Field((50, 200), description="Noise levels of the variations, each a signal.")
    timestep: Timestep = Field(50, ge=1, description="t: the one of `timesteps` that is the primary signal.")
    steps: int = Field(1, ge=1, description="DDIM steps of each variation.")
    variations: int = Field(4, ge=1, description="n: variations that are averaged.")
    guidance: Guidance = Field(1.0, description="Guidance scale of the variations; 1 is none.")
    metric: Metric = Field("ssim", description="Similarity measure.")

    @model_validator(mode="after")
    def _steps_fit(self) -> Self:
        require_among(self.timestep, self.timesteps)
        if min(self.timesteps) < self.steps:
            raise ValueError(f"{self.steps} steps do not fit below timestep {min(self.timesteps)}")
        return self

    def needs(self) -> frozenset[Need]:
        return needs_of((self.metric,))

    def tells(self) -> frozenset[Ability]:
        return told_under(self.guidance)

    def asks(self) -> frozenset[Capability]:
        return asked_of_service("image_to_image", "strength", guidance=self.guidance)

    def check(self, schedule: Schedule) -> None:
        schedule.check(*self.timesteps)

    def signals(self) -> list[Signal]:
        names = ["rediffuse", "rediffuse.raw", *(f"rediffuse.t={t}" for t in self.timesteps)]
        return [Signal(name, primary=name == "rediffuse") for name in names]

    def cost(self) -> Evaluations:
        variations = self.variations * len(self.timesteps)
        forwards = variations * self.steps * evaluations_per_step(self.guidance)
        return Evaluations(forwards=forwards, encodes=1, decodes=variations + 1, queries=variations + 1)

    def score(self, trial: Trial) -> dict[str, Tensor]:
        raw = {t: similarity(trial, self.metric, self._mean_variation(trial, t)) for t in self.timesteps}
        baseline = similarity(trial, self.metric, trial.reconstruction())
        scores = {f"rediffuse.t={t}": value - baseline for t, value in raw.items()}
        return {"rediffuse": scores[f"rediffuse.t={self.timestep}"], "rediffuse.raw": raw[self.timestep], **scores}

    def _mean_variation(self, trial: Trial, t: int) -> Tensor:
        variations = [trial.image_to_image(t, k, self.steps, self.guidance) for k in range(self.variations)]
        return torch.stack(variations).mean(0)
