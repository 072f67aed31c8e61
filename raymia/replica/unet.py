"""What families share whose denoiser is diffusers' conditional UNet over an autoencoder's latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel
from torch import nn

from raymia.errors import ConfigError
from raymia.replica.autoencoder import check_config, latent_shape_of
from raymia.replica.families import Family
from raymia.replica.folder import read_json
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.replica.parameter_groups import unet_group
from raymia.replica.schedule import Naming, Schedule, VariancePreserving, read_scheduler
from raymia.replica.weights import load_part


class UNetFamily(Family):
    """Pipelines with parts `unet`, `vae` and `scheduler` of diffusers' layout, over a variance-preserving schedule."""

    def schedule(self, folder: Path, naming: Naming = "levels") -> Schedule:
        file = folder / "scheduler" / "scheduler_config.json"
        return VariancePreserving(read_scheduler(file), str(file), naming)

    def latent_shape(self, folder: Path, resolution_px: int) -> tuple[int, int, int]:
        return latent_shape_of(read_json(folder / "vae" / "config.json"), resolution_px)

    def parameter_group(self, name: str) -> str | None:
        return unet_group(name)


class UNetDiffusion(LatentDiffusion):
    """A replica whose denoiser is the pipeline's `unet`."""

    def _load_denoiser(self, folder: Path, variant: str | None) -> nn.Module:
        unet: nn.Module = load_part(UNet2DConditionModel, folder, "unet", variant, torch_dtype=self.dtype)
        return unet


def check_unet(folder: Path) -> dict[str, Any]:
    """The UNet's config, of a folder whose UNet and autoencoder fit together.

    Raises:
        ConfigError: they do not, or the autoencoder's latents are scaled in another way.
    """
    unet, vae = read_json(folder / "unet" / "config.json"), read_json(folder / "vae" / "config.json")
    check_config(vae, folder / "vae")
    channels, latent = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if channels != latent:
        raise ConfigError(
            f"{folder}/unet: in_channels {channels} but the autoencoder has {latent}; inpainting UNets are not supported"
        )
    if unet.get("time_cond_proj_dim") is not None:
        raise ConfigError(f"{folder}/unet: time_cond_proj_dim: a consistency model, distilled to few steps, is not supported")
    return unet
