"""A service in the process that asks it: it blurs what it is sent, and draws noise for what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from raymia.services.protocol import BlackBox, LocalModel, Service


class Blur(Service):
    """Blurs the more, the more noise is asked for."""

    name: ClassVar = "outside_blur"
    title: ClassVar = "a service that blurs"
    capabilities: ClassVar = frozenset(("image_to_image", "text_to_image", "strength", "steps", "guidance", "seed"))

    sigma_px: float = Field(2.0, gt=0, description="Of the blur at strength 1.")

    def price(self) -> float | None:
        return 0.0

    def open(self, model: LocalModel | None) -> BlackBox:
        return OpenBlur(self.sigma_px)


class OpenBlur:
    """See `raymia.services.protocol.BlackBox`."""

    def __init__(self, sigma_px: float) -> None:
        self._sigma_px = sigma_px

    def image_to_image(
        self, images: Tensor, prompts: Sequence[str], strength: float, steps: int, guidance: float, seeds: Sequence[int]
    ) -> Tensor:
        blurred = gaussian_blur(images, [9, 9], [0.01 + strength * self._sigma_px] * 2)
        return (blurred + 0.1 * strength * self._drawn(images.shape[-2], images.shape[-1], seeds)).clamp(-1.0, 1.0)

    def text_to_image(
        self, prompts: Sequence[str], height: int, width: int, steps: int, guidance: float, seeds: Sequence[int]
    ) -> Tensor:
        return self._drawn(height, width, seeds)

    def _drawn(self, height: int, width: int, seeds: Sequence[int]) -> Tensor:
        draws = [torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(draws) * 2.0 - 1.0
