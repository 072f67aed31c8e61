"""A service in the process that asks it: it blurs what it is sent, and draws noise for what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, get_args

import torch
from pydantic import Field
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from raymia.services.protocol import BlackBox, Capability, LocalModel, Queries, Service, Surroundings


class Blur(Service):
    """Blurs the more, the more noise is asked for."""

    name: ClassVar = "outside_blur"
    title: ClassVar = "a service that blurs"
    capabilities: ClassVar = frozenset(get_args(Capability))

    sigma_px: float = Field(2.0, gt=0, description="Of the blur at strength 1.")

    def price(self) -> float | None:
        return 0.0

    def open(self, model: LocalModel | None, surroundings: Surroundings) -> BlackBox:
        return OpenBlur(self.sigma_px)


class OpenBlur:
    """See `raymia.services.protocol.BlackBox`."""

    def __init__(self, sigma_px: float) -> None:
        self._sigma_px = sigma_px

    def answer(self, queries: Queries) -> Tensor:
        drawn = self._drawn(queries.height, queries.width, queries.seeds)
        if queries.images is None or queries.strength is None:
            return drawn
        blurred = gaussian_blur(queries.images, [9, 9], [0.01 + queries.strength * self._sigma_px] * 2)
        return (blurred + 0.1 * queries.strength * drawn).clamp(-1.0, 1.0)

    def _drawn(self, height: int, width: int, seeds: Sequence[int]) -> Tensor:
        draws = [torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(draws) * 2.0 - 1.0
