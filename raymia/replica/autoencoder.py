"""Autoencoders of pipelines, in float32 and in parts that a device takes at once."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raymia.errors import ConfigError
from raymia.replica.configs import read_config
from raymia.replica.device import layout_on
from raymia.replica.parts import Parts


class Autoencoder(ABC):
    """Images to latents and back, as a pipeline scales them.

    Attributes:
        batch: images in a call.
        factor: pixels by side of a latent; sides of images are multiples of it.
        channels: of the latents.
    """

    def __init__(self, device: torch.device, batch: int, factor: int, channels: int) -> None:
        """Say what the latents are like."""
        self._device = device
        self.batch = batch
        self.factor = factor
        self.channels = channels

    @abstractmethod
    def _latents(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch c h w"]:
        """Scaled mean of the posterior for images in [-1, 1], in one call."""

    @abstractmethod
    def _images(self, z0: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 3 H W"]:
        """Images for clean latents, in one call."""

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of an image of that size in px."""
        return self.channels, height // self.factor, width // self.factor

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch c h w"]:
        """Scaled mean (not a draw) of the posterior for images in [-1, 1]."""
        images = images.to(self._device, torch.float32)
        return torch.cat([self._latents(part) for part in torch.split(images, self.batch)]).contiguous()

    @torch.no_grad()
    def decode(self, z0: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 3 H W"]:
        """Images for clean latents, clamped to [-1, 1]."""
        decoded = torch.cat([self._images(part) for part in torch.split(z0.float(), self.batch)])
        return decoded.clamp(-1.0, 1.0).contiguous()


class KLAutoencoder(Autoencoder):
    """diffusers' AutoencoderKL: z_0 = (mean of the posterior - shift) x scale, by its own config."""

    def __init__(self, parts: Parts, device: torch.device, batch: int, part: str = "vae") -> None:
        """Load it, in float32: its activations overflow in half precision.

        Args:
            parts: of the pipeline.
            device: where it computes.
            batch: images in a call.
            part: the autoencoder's folder.

        Raises:
            ConfigError: weights that do not fit their config.
        """
        vae = parts.model(part, torch.float32)
        super().__init__(device, batch, factor_of(vae.config), vae.config.latent_channels)
        self._layout = layout_on(device.type, compiled=False)
        self._vae = vae.to(device, memory_format=self._layout)
        self._scale = float(vae.config.scaling_factor)
        self._shift = vae.config.get("shift_factor")

    def _latents(self, images: Tensor) -> Tensor:
        mean = self._vae.encode(images.contiguous(memory_format=self._layout)).latent_dist.mean
        return (mean if self._shift is None else mean - self._shift) * self._scale  # type: ignore[no-any-return]

    def _images(self, z0: Tensor) -> Tensor:
        scaled = z0 / self._scale
        scaled = scaled if self._shift is None else scaled + self._shift
        decoded: Tensor = self._vae.decode(scaled.contiguous(memory_format=self._layout)).sample
        return decoded


class DCAutoencoder(Autoencoder):
    """diffusers' AutoencoderDC, which has no posterior: z_0 = latent x scale, by its own config."""

    def __init__(self, parts: Parts, device: torch.device, batch: int, part: str = "vae") -> None:
        """Load it, in float32; see `KLAutoencoder`."""
        vae = parts.model(part, torch.float32)
        super().__init__(device, batch, factor_of(vae.config), vae.config.latent_channels)
        self._vae = vae.to(device)
        self._scale = float(vae.config.scaling_factor)

    def _latents(self, images: Tensor) -> Tensor:
        return self._vae.encode(images).latent * self._scale  # type: ignore[no-any-return]

    def _images(self, z0: Tensor) -> Tensor:
        decoded: Tensor = self._vae.decode(z0 / self._scale).sample
        return decoded


class VQAutoencoder(Autoencoder):
    """diffusers' VQModel: z_0 = latents before they are quantised x scale, by its own config; decoding quantises."""

    def __init__(self, parts: Parts, device: torch.device, batch: int, part: str = "vqvae") -> None:
        """Load it, in float32; see `KLAutoencoder`."""
        vqvae = parts.model(part, torch.float32)
        super().__init__(device, batch, factor_of(vqvae.config), vqvae.config.latent_channels)
        self._vqvae = vqvae.to(device)
        self._scale = float(vqvae.config.scaling_factor)

    def _latents(self, images: Tensor) -> Tensor:
        return self._vqvae.encode(images).latents * self._scale  # type: ignore[no-any-return]

    def _images(self, z0: Tensor) -> Tensor:
        decoded: Tensor = self._vqvae.decode(z0 / self._scale).sample
        return decoded


ALONE: dict[str, Callable[[Parts, torch.device, int, str], Autoencoder]] = {
    "AutoencoderKL": KLAutoencoder,
    "AutoencoderDC": DCAutoencoder,
    "VQModel": VQAutoencoder,
}
"""By diffusers' names of their classes, autoencoders that take images and give images without the rest of their pipeline."""


class Pixels(Autoencoder):
    """No autoencoder: the pixels in [-1, 1] are the latents."""

    def __init__(self, device: torch.device, batch: int) -> None:
        """Take a device, and as many images to a call as an autoencoder would."""
        super().__init__(device, batch, factor=1, channels=3)

    def _latents(self, images: Tensor) -> Tensor:
        return images

    def _images(self, z0: Tensor) -> Tensor:
        return z0


def check_config(config: Mapping[str, Any], source: object) -> None:
    """Refuse an autoencoder of other images, or one whose latents are scaled in another way.

    Args:
        config: with the values of its class where it is silent.
        source: its folder, named in errors.

    Raises:
        ConfigError: names the field.
    """
    for field in ("latents_mean", "latents_std"):
        if config.get(field) is not None:
            raise ConfigError(f"{source}: has {field}; only latents scaled by scaling_factor and shift_factor are supported")
    for field in ("in_channels", "out_channels"):
        if config.get(field, 3) != 3:
            raise ConfigError(f"{source}: {field} is {config[field]!r}; expected the 3 colours of an image")
    scale, shift = config.get("scaling_factor"), config.get("shift_factor")
    if not _number(scale) or scale == 0:
        raise ConfigError(f"{source}: scaling_factor is {scale!r}; expected the number that latents are multiplied by")
    if shift is not None and not _number(shift):
        raise ConfigError(f"{source}: shift_factor is {shift!r}; expected the number that is taken from latents, or null")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def factor_of(config: Mapping[str, Any]) -> int:
    """Pixels by side of a latent, from an autoencoder's config."""
    blocks: Sequence[int] = config.get("encoder_block_out_channels") or config.get("block_out_channels", (64,))
    return int(2 ** (len(blocks) - 1))


def latent_shape_of(config: Mapping[str, Any], resolution_px: int) -> tuple[int, int, int]:
    """Channels, height and width of the latents of a square image, from an autoencoder's config."""
    side = resolution_px // factor_of(config)
    return int(config.get("latent_channels", 4)), side, side


def native_px(folder: Path, denoiser: str, parts: Mapping[str, str]) -> int:
    """Side of the images whose latents a denoiser was made for, by its `sample_size`.

    Args:
        folder: of the pipeline.
        denoiser: the part that denoises latents of the part `vae`.
        parts: class of each.
    """
    side = read_config(folder, denoiser, parts[denoiser])["sample_size"]
    return int(side) * factor_of(read_config(folder, "vae", parts["vae"])) if isinstance(side, int) else 0
