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
    CALIBRATED,
    Guidance,
    Steps,
    Timestep,
    Timesteps,
    asked_of_service,
    forwards_of,
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
    ``rediffuse.t=T`` the score at T. In front of a service whose autoencoder is not known (``calibrate: false``) all scores
    are raw.

    Source: Li et al., Towards Black-Box Membership Inference Attack for Diffusion Models, arXiv 2405.20771, algorithm 1.
    """

    name: ClassVar = "rediffuse"
    access: ClassVar = Access.BLACK
    reference: ClassVar = "Li et al. 2024, arXiv 2405.20771"
    spares: ClassVar = CALIBRATED

    timesteps: Timesteps = Field((50, 200), description="Noise levels of the variations, each a signal.")
    timestep: Timestep = Field(50, ge=1, description="t: the one of `timesteps` that is the primary signal.")
    steps: Steps | None = Field(1, description="DDIM steps of each variation; null leaves them to a service.")
    variations: int = Field(4, ge=1, description="n: variations that are averaged.")
    guidance: Guidance | None = Field(1.0, description="Guidance scale of the variations; 1 is none, null the service's own.")
    calibrate: bool = Field(True, description="Take the autoencoder's own error from the scores; a service's must be known.")
    metric: Metric = Field("ssim", description="Similarity measure.")

    @model_validator(mode="after")
    def _steps_fit(self) -> Self:
        require_among(self.timestep, self.timesteps)
        if self.steps is not None and min(self.timesteps) < self.steps:
            raise ValueError(f"{self.steps} steps do not fit below timestep {min(self.timesteps)}")
        return self

    def needs(self) -> frozenset[Need]:
        return needs_of((self.metric,))

    def tells(self) -> frozenset[Ability]:
        return told_under(self.guidance)

    def asks(self) -> frozenset[Capability]:
        kinds: tuple[Capability, ...] = ("image_to_image", "strength", "lossless")
        return asked_of_service(*kinds, steps=self.steps, guidance=self.guidance, calibrate=self.calibrate)

    def check(self, schedule: Schedule) -> None:
        schedule.check(*self.timesteps)

    def signals(self) -> list[Signal]:
        raw = ["rediffuse.raw"] if self.calibrate else []
        names = ["rediffuse", *raw, *(f"rediffuse.t={t}" for t in self.timesteps)]
        return [Signal(name, primary=name == "rediffuse") for name in names]

    def cost(self) -> Evaluations:
        variations = self.variations * len(self.timesteps)
        alone = int(self.calibrate)
        forwards = forwards_of(variations, self.steps, self.guidance)
        return Evaluations(forwards=forwards, encodes=1, decodes=variations + alone, queries=variations + alone)

    def score(self, trial: Trial) -> dict[str, Tensor]:
        raw = {t: similarity(trial, self.metric, self._mean_variation(trial, t)) for t in self.timesteps}
        if not self.calibrate:
            return {"rediffuse": raw[self.timestep], **{f"rediffuse.t={t}": value for t, value in raw.items()}}
        baseline = similarity(trial, self.metric, trial.reconstruction())
        scores = {f"rediffuse.t={t}": value - baseline for t, value in raw.items()}
        return {"rediffuse": scores[f"rediffuse.t={self.timestep}"], "rediffuse.raw": raw[self.timestep], **scores}

    def _mean_variation(self, trial: Trial, t: int) -> Tensor:
        variations = [trial.image_to_image(t, k, self.steps, self.guidance) for k in range(self.variations)]
        return torch.stack(variations).mean(0)
