"""Seeded noise: the same for the same seed on every machine and device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from raymia.replica.device import onto


def noise_like(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal noise of a shape, made on the CPU."""
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))


def stacked_noise(shape: tuple[int, ...], seeds: Sequence[int], device: torch.device) -> Float[Tensor, "batch ..."]:
    """Standard normal noise, each sample from its own seed."""
    return onto(device, torch.stack([noise_like(shape, seed) for seed in seeds]))
