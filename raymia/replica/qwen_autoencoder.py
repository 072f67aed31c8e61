"""Qwen-Image's autoencoder: one of videos, to which an image is the first frame, with latents scaled channel by channel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raymia.errors import ConfigError
from raymia.replica.autoencoder import Autoencoder
from raymia.replica.parts import Parts

SCALING = ("latents_mean", "latents_std")
"""Fields with a number for each channel of the latents."""


class QwenAutoencoder(Autoencoder):
    """diffusers' AutoencoderKLQwenImage: z_0 = (mean of the posterior - latents_mean) / latents_std, by its own config."""

    def __init__(self, parts: Parts, device: torch.device, batch: int, part: str = "vae") -> None:
        """Load it, in float32.

        Args:
            parts: of the pipeline.
            device: where it computes.
            batch: images in a call.
            part: the autoencoder's folder.

        Raises:
            ConfigError: weights that do not fit their config.
        """
        vae = parts.model(part, torch.float32)
        super().__init__(device, batch, factor_of(vae.config), vae.config.z_dim)
        self._vae = vae.to(device)
        self._mean, self._std = (torch.tensor(vae.config[field], device=device).view(1, -1, 1, 1) for field in SCALING)

    def _latents(self, images: Tensor) -> Tensor:
        mean: Tensor = self._vae.encode(images[:, :, None]).latent_dist.mean[:, :, 0]
        return (mean - self._mean) / self._std

    def _images(self, z0: Tensor) -> Tensor:
        decoded: Tensor = self._vae.decode((z0 * self._std + self._mean)[:, :, None]).sample
        return decoded[:, :, 0]


def factor_of(config: Mapping[str, Any]) -> int:
    """Pixels by side of a latent, from the autoencoder's config."""
    return int(2 ** len(config["temperal_downsample"]))


def check_config(config: Mapping[str, Any], source: object) -> None:
    """Refuse an autoencoder of other images, or one whose latents cannot be scaled.

    Args:
        config: with the values of its class where it is silent.
        source: its folder, named in errors.

    Raises:
        ConfigError: names the field.
    """
    if config["input_channels"] != 3:
        raise ConfigError(f"{source}: input_channels is {config['input_channels']!r}; expected the 3 colours of an image")
    halvings = len(config["dim_mult"]) - 1
    if len(config["temperal_downsample"]) != halvings:
        raise ConfigError(
            f"{source}: temperal_downsample has {len(config['temperal_downsample'])} entries and dim_mult {halvings + 1}; "
            f"expected {halvings}, one for each halving of the image"
        )
    for field in SCALING:
        values = config[field]
        if not (isinstance(values, list | tuple) and len(values) == config["z_dim"] and all(map(_finite, values))):
            raise ConfigError(f"{source}: {field} is {values!r}; expected a number for each of the {config['z_dim']} channels")
    if min(config["latents_std"]) <= 0:
        raise ConfigError(f"{source}: latents_std is {config['latents_std']!r}; expected numbers above 0")


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
