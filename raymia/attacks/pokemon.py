"""Perceptual similarity of an image and its image-to-image reconstruction, calibrated by the autoencoder's own error."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from raymia.attacks.base import Access, Attack, Evaluations, Need, Signal
from raymia.replica.families import Ability
from raymia.replica.schedule import Schedule
from raymia.services.protocol import Capability
from raymia.trial.parameters import Guidance, Timesteps, asked_of_service, evaluations_per_step, told_under
from raymia.trial.similarity import Metric, Metrics, needs_of, similarity
from raymia.trial.trial import Trial


class Pokemon(Attack):
    """Similarity of x and its reconstruction from noise level t, minus that of x and decode(encode(x)).

    The reconstruction noises the latents to t and denoises them in a few deterministic DDIM steps under the caption.
    Without the calibration the autoencoder's own error, which differs between images far more than membership does,
    hides the signal. ``pokemon.<metric>`` is calibrated, ``pokemon.<metric>.raw`` is not; ``pokemon`` is the calibrated
    score of the first metric. A reconstruction is averaged over its draws, a score over the timesteps.

    The name is this project's; in the literature "Pokemon" is a data set that diffusion models are fine-tuned on.

    Source: image-to-image reconstruction as an attack: Dubinski et al., Towards More Realistic Membership Inference
    Attacks on Large Diffusion Models, arXiv 2306.12983.
    """

    name: ClassVar = "pokemon"
    access: ClassVar = Access.BLACK
    reference: ClassVar = "after Dubinski et al. 2023, arXiv 2306.12983"

    timesteps: Timesteps = Field((200, 300, 400), description="Noise levels t from which the image is reconstructed.")
    steps: int = Field(10, ge=1, description="DDIM steps of each reconstruction.")
    draws: int = Field(2, ge=1, description="Noise draws per timestep.")
    guidance: Guidance = Field(1.0, description="Guidance scale of the reconstruction; 1 is none.")
    metrics: Metrics = Field(("ssim", "clip", "lpips"), description="Similarities; the first is primary.")

    @model_validator(mode="after")
    def _steps_fit(self) -> Self:
        if min(self.timesteps) < self.steps:
            raise ValueError(f"{self.steps} steps do not fit below timestep {min(self.timesteps)}")
        return self

    def needs(self) -> frozenset[Need]:
        return needs_of(self.metrics)

    def tells(self) -> frozenset[Ability]:
        return told_under(self.guidance)

    def asks(self) -> frozenset[Capability]:
        return asked_of_service("image_to_image", "strength", guidance=self.guidance)

    def check(self, schedule: Schedule) -> None:
        schedule.check(*self.timesteps)

    def signals(self) -> list[Signal]:
        names = ["pokemon"]
        for metric in self.metrics:
            names += [f"pokemon.{metric}", f"pokemon.{metric}.raw", *(f"pokemon.{metric}.t={t}" for t in self.timesteps)]
        return [Signal(name, primary=name == "pokemon") for name in names]

    def cost(self) -> Evaluations:
        variations = len(self.timesteps) * self.draws
        forwards = variations * self.steps * evaluations_per_step(self.guidance)
        return Evaluations(forwards=forwards, encodes=1, decodes=variations + 1, queries=variations + 1)

    def score(self, trial: Trial) -> dict[str, Tensor]:
        scores: dict[str, Tensor] = {}
        for metric in self.metrics:
            raw = {t: self._similarity(trial, metric, t) for t in self.timesteps}
            baseline = similarity(trial, metric, trial.reconstruction())
            mean = torch.stack(list(raw.values())).mean(0)
            scores[f"pokemon.{metric}"] = mean - baseline
            scores[f"pokemon.{metric}.raw"] = mean
            scores |= {f"pokemon.{metric}.t={t}": value - baseline for t, value in raw.items()}
        return {"pokemon": scores[f"pokemon.{self.metrics[0]}"], **scores}

    def _similarity(self, trial: Trial, metric: Metric, t: int) -> Tensor:
        images = [trial.image_to_image(t, draw, self.steps, self.guidance) for draw in range(self.draws)]
        return torch.stack([similarity(trial, metric, image) for image in images]).mean(0)
