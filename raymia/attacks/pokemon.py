"""Perceptual similarity of an image and its image-to-image reconstruction, calibrated by the autoencoder's own error."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from raymia.attacks.base import Access, Attack, Cost, Signal
from raymia.attacks.timesteps import Timesteps
from raymia.attacks.trial import Trial
from raymia.errors import ConfigError
from raymia.replica.schedule import Schedule

Metric = Literal["ssim", "clip"]


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
    metrics: tuple[Metric, ...] = Field(("ssim", "clip"), min_length=1, description="Similarities; the first is primary.")

    @model_validator(mode="after")
    def _steps_fit(self) -> Self:
        if min(self.timesteps) < self.steps:
            raise ValueError(f"{self.steps} steps do not fit below timestep {min(self.timesteps)}")
        return self

    def needs_clip(self) -> bool:
        return "clip" in self.metrics

    def check(self, schedule: Schedule, has_clip: bool) -> None:
        schedule.check(*self.timesteps)
        if self.needs_clip() and not has_clip:
            raise ConfigError(
                "attacks.pokemon.metrics asks for clip but the job has no `clip` model; set one, or metrics: [ssim]"
            )

    def signals(self) -> list[Signal]:
        names = ["pokemon"]
        for metric in self.metrics:
            names += [f"pokemon.{metric}", f"pokemon.{metric}.raw", *(f"pokemon.{metric}.t={t}" for t in self.timesteps)]
        return [Signal(name, primary=name == "pokemon") for name in names]

    def cost(self) -> Cost:
        variations = len(self.timesteps) * self.draws
        return Cost(unet_forwards=variations * self.steps, encodes=1, decodes=variations + 1)

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
        draws = [similarity(trial, metric, trial.image_to_image(t, draw, self.steps)) for draw in range(self.draws)]
        return torch.stack(draws).mean(0)


def similarity(trial: Trial, metric: Metric, images: Tensor) -> Tensor:
    """Similarity of the trial's images and `images`, one value per sample; 1 for identical images.

    ``ssim``: structural similarity (Wang et al. 2004, 11 px Gaussian window, range 2). ``clip``: cosine of CLIP embeddings.
    """
    if metric == "clip":
        return (trial.embedding(trial.images) * trial.embedding(images)).sum(1)
    ssim = structural_similarity_index_measure(images, trial.images, data_range=2.0, reduction="none")
    assert isinstance(ssim, Tensor)
    return ssim
