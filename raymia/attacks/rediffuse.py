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
from raymia.trial.parameters import Guidance, Timestep, asked_of_service, evaluations_per_step, told_under
from raymia.trial.similarity import Metric, needs_of, similarity
from raymia.trial.trial import Trial


class ReDiffuse(Attack):
    """Similarity of x and the mean of n image-to-image variations of x at a low noise level.

    The variations' errors are independent where the model knows the image, so that their mean is close to it.

    Source: Li et al., Towards Black-Box Membership Inference Attack for Diffusion Models, arXiv 2405.20771, algorithm 1.
    """

    name: ClassVar = "rediffuse"
    access: ClassVar = Access.BLACK
    reference: ClassVar = "Li et al. 2024, arXiv 2405.20771"

    timestep: Timestep = Field(50, ge=1, description="Noise level t of the variations.")
    steps: int = Field(1, ge=1, description="DDIM steps of each variation.")
    variations: int = Field(4, ge=1, description="n: variations that are averaged.")
    guidance: Guidance = Field(1.0, description="Guidance scale of the variations; 1 is none.")
    metric: Metric = Field("ssim", description="Similarity measure.")

    @model_validator(mode="after")
    def _steps_fit(self) -> Self:
        if self.timestep < self.steps:
            raise ValueError(f"{self.steps} steps do not fit below timestep {self.timestep}")
        return self

    def needs(self) -> frozenset[Need]:
        return needs_of((self.metric,))

    def tells(self) -> frozenset[Ability]:
        return told_under(self.guidance)

    def asks(self) -> frozenset[Capability]:
        return asked_of_service("image_to_image", "strength", guidance=self.guidance)

    def check(self, schedule: Schedule) -> None:
        schedule.check(self.timestep)

    def signals(self) -> list[Signal]:
        return [Signal("rediffuse", primary=True)]

    def cost(self) -> Evaluations:
        forwards = self.variations * self.steps * evaluations_per_step(self.guidance)
        return Evaluations(forwards=forwards, encodes=1, decodes=self.variations, queries=self.variations)

    def score(self, trial: Trial) -> dict[str, Tensor]:
        variations = [trial.image_to_image(self.timestep, k, self.steps, self.guidance) for k in range(self.variations)]
        return {"rediffuse": similarity(trial, self.metric, torch.stack(variations).mean(0))}
