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
from raymia.trial.parameters import CALIBRATED, Guidance, Steps, Timesteps, asked_of_service, forwards_of, told_under
from raymia.trial.similarity import Metric, Metrics, needs_of, similarity
from raymia.trial.trial import Trial


class Pokemon(Attack):
    """Similarity of x and its reconstruction from noise level t, minus that of x and decode(encode(x)).

    The reconstruction noises the latents to t and denoises them in a few deterministic DDIM steps under the caption.
    Without the calibration the autoencoder's own error, which differs between images far more than membership does,
    hides the signal. ``pokemon.<metric>`` is calibrated, ``pokemon.<metric>.raw`` is not; ``pokemon`` is the calibrated
    score of the first metric. A reconstruction is averaged over its draws, a score over the timesteps. In front of a service
    whose autoencoder is not known (``calibrate: false``) all scores are raw.

    The name is this project's; in the literature "Pokemon" is a data set that diffusion models are fine-tuned on.

    Source: image-to-image reconstruction as an attack: Dubinski et al., Towards More Realistic Membership Inference
    Attacks on Large Diffusion Models, arXiv 2306.12983.
    """

    name: ClassVar = "pokemon"
    access: ClassVar = Access.BLACK
    reference: ClassVar = "after Dubinski et al. 2023, arXiv 2306.12983"
    spares: ClassVar = CALIBRATED

    timesteps: Timesteps = Field((200, 300, 400), description="Noise levels t from which the image is reconstructed.")
    steps: Steps | None = Field(10, description="DDIM steps of each reconstruction; null leaves them to a service.")
    draws: int = Field(2, ge=1, description="Noise draws per timestep.")
    guidance: Guidance | None = Field(1.0, description="Guidance scale of each; 1 is none, null the service's own.")
    calibrate: bool = Field(True, description="Take the autoencoder's own error from the scores; a service's must be known.")
    metrics: Metrics = Field(("ssim", "clip", "lpips"), description="Similarities; the first is primary.")

    @model_validator(mode="after")
    def _steps_fit(self) -> Self:
        if self.steps is not None and min(self.timesteps) < self.steps:
            raise ValueError(f"{self.steps} steps do not fit below timestep {min(self.timesteps)}")
        return self

    def needs(self) -> frozenset[Need]:
        return needs_of(self.metrics)

    def tells(self) -> frozenset[Ability]:
        return told_under(self.guidance)

    def asks(self) -> frozenset[Capability]:
        kinds: tuple[Capability, ...] = ("image_to_image", "strength", "lossless")
        return asked_of_service(*kinds, steps=self.steps, guidance=self.guidance, calibrate=self.calibrate)

    def check(self, schedule: Schedule) -> None:
        schedule.check(*self.timesteps)

    def signals(self) -> list[Signal]:
        names = ["pokemon"]
        for metric in self.metrics:
            raw = [f"pokemon.{metric}.raw"] if self.calibrate else []
            names += [f"pokemon.{metric}", *raw, *(f"pokemon.{metric}.t={t}" for t in self.timesteps)]
        return [Signal(name, primary=name == "pokemon") for name in names]

    def cost(self) -> Evaluations:
        variations = len(self.timesteps) * self.draws
        alone = int(self.calibrate)
        forwards = forwards_of(variations, self.steps, self.guidance)
        return Evaluations(forwards=forwards, encodes=1, decodes=variations + alone, queries=variations + alone)

    def score(self, trial: Trial) -> dict[str, Tensor]:
        scores: dict[str, Tensor] = {}
        for metric in self.metrics:
            raw = {t: self._similarity(trial, metric, t) for t in self.timesteps}
            mean = torch.stack(list(raw.values())).mean(0)
            baseline = similarity(trial, metric, trial.reconstruction()) if self.calibrate else torch.zeros_like(mean)
            scores[f"pokemon.{metric}"] = mean - baseline
            if self.calibrate:
                scores[f"pokemon.{metric}.raw"] = mean
            scores |= {f"pokemon.{metric}.t={t}": value - baseline for t, value in raw.items()}
        return {"pokemon": scores[f"pokemon.{self.metrics[0]}"], **scores}

    def _similarity(self, trial: Trial, metric: Metric, t: int) -> Tensor:
        images = [trial.image_to_image(t, draw, self.steps, self.guidance) for draw in range(self.draws)]
        return torch.stack([similarity(trial, metric, image) for image in images]).mean(0)
