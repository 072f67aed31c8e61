"""PFAMI: a training image sits at a local minimum of the loss, lower than its own slight variations."""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt, Len, Lt
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.nn.functional import interpolate

from raymia.attacks.base import Access, Attack, Evaluations, Signal
from raymia.replica.schedule import Schedule, mix
from raymia.trial.parameters import Timesteps, distinct
from raymia.trial.trial import CAPTION, Trial, mean_squared

Share = Annotated[float, Gt(0.0), Lt(1.0)]


class PFAMI(Attack):
    """Minus the relative loss of the image against that of its centre crops, under the same noise.

    score = -mean over t and j of (L(x) - L(x_j)) / L(x), where x_j is the centre crop of a share of the side, resized
    back (bicubic), and L the loss at timestep t under the caption and the first noise draw.

    Source: Fu et al., A Probabilistic Fluctuation based Membership Inference Attack for Diffusion Models,
    arXiv 2308.12143; its statistical variant with the crop perturbation.
    """

    name: ClassVar = "pfami"
    access: ClassVar = Access.GREY
    reference: ClassVar = "Fu et al. 2023, arXiv 2308.12143"

    timesteps: Timesteps = Field(tuple(range(0, 500, 50)), description="Timesteps at which the losses are compared.")
    crops: Annotated[tuple[Share, ...], Len(min_length=1), AfterValidator(distinct)] = Field(
        tuple(round(0.95 - 0.25 * j / 9, 4) for j in range(10)), description="Share of the side that each crop keeps."
    )

    def check(self, schedule: Schedule) -> None:
        schedule.check(*self.timesteps)

    def signals(self) -> list[Signal]:
        return [Signal("pfami", primary=True)]

    def cost(self) -> Evaluations:
        variants = 1 + len(self.crops)
        return Evaluations(forwards=len(self.timesteps) * variants, encodes=variants)

    def score(self, trial: Trial) -> dict[str, Tensor]:
        noise = trial.noise(0)
        trial.evaluate((t, 0, CAPTION) for t in self.timesteps)
        fluctuations = []
        for crop in self.crops:
            latents = trial.model.encode(trial.varied(("crop", crop), partial(centre_crop, share=crop)))
            noisy = [(mix(trial.schedule, latents, noise, t), t, trial.text()) for t in self.timesteps]
            for t, predicted in zip(self.timesteps, trial.model.predicted_noises(noisy), strict=True):
                loss, varied = trial.loss(t, 0), mean_squared(noise - predicted)
                fluctuations.append((loss - varied) / loss)
        return {"pfami": -torch.stack(fluctuations).mean(0)}


def centre_crop(images: Tensor, share: float) -> Tensor:
    """The central `share` of the height and width, resized back to the size of the images (bicubic)."""
    height, width = images.shape[-2:]
    rows, columns = round(height * share), round(width * share)
    top, left = (height - rows) // 2, (width - columns) // 2
    crop = images[..., top : top + rows, left : left + columns]
    return interpolate(crop, size=(height, width), mode="bicubic", align_corners=False).clamp(-1.0, 1.0)
