"""Diffusion of the pixels themselves: a UNet without autoencoder and without text, over linear betas, as DDPM has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import UNet2DModel
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from raymia.errors import ConfigError
from raymia.replica.conditioning import Conditioning
from raymia.replica.device import available, quiet_libraries
from raymia.replica.families import Family, LoadOptions
from raymia.replica.folder import read_json
from raymia.replica.parameter_groups import unet_group
from raymia.replica.protocol import Replica
from raymia.replica.schedule import Naming, Schedule, VariancePreserving, read_scheduler
from raymia.replica.weights import load_part


class Pixels(Family):
    """Pipelines of a UNet2DModel alone; the latents are the pixels."""

    name: ClassVar = "outside_pixels"
    title: ClassVar = "diffusion of pixels"
    weights: ClassVar = {"unet": "diffusion_pytorch_model"}
    files: ClassVar = ("scheduler/*.json",)
    resolution_px: ClassVar = 32

    def matches(self, model_index: Mapping[str, Any]) -> bool:
        return model_index.get("_class_name") == "OutsidePixelPipeline"

    def check(self, folder: Path) -> None:
        unet = read_json(folder / "unet" / "config.json")
        if (unet.get("in_channels"), unet.get("out_channels")) != (3, 3):
            raise ConfigError(
                f"{folder}/unet: expected 3 channels in and out; a UNet that learns its variance is not supported"
            )
        if unet.get("class_embed_type") or unet.get("num_class_embeds"):
            raise ConfigError(f"{folder}/unet: told a class, which is not supported")
        self.schedule(folder)

    def schedule(self, folder: Path, naming: Naming = "levels") -> Schedule:
        file = folder / "scheduler" / "scheduler_config.json"
        return VariancePreserving(read_scheduler(file), str(file), naming)

    def latent_shape(self, folder: Path, resolution_px: int) -> tuple[int, int, int]:
        return 3, resolution_px, resolution_px

    def load(self, folder: Path, variant: str | None, options: LoadOptions) -> Replica:
        return PixelReplica(self, folder, variant, options)

    def parameter_group(self, name: str) -> str | None:
        return unet_group(name)


class PixelReplica:
    """See `raymia.replica.protocol.Replica`."""

    def __init__(self, family: Pixels, folder: Path, variant: str | None, options: LoadOptions) -> None:
        if options.dtype != "float32":
            raise ConfigError(f"replica.dtype: {options.dtype}; {family.title} is computed in float32 alone")
        if options.compiled:
            raise ConfigError(f"replica.compile: {family.title} is not compiled; leave it out")
        self.device = torch.device(available(options.device))
        self.schedule = family.schedule(folder, options.naming)
        self.parameter_group = family.parameter_group
        self.denoiser_batch = options.denoiser_batch or 8
        quiet_libraries()
        unet = load_part(UNet2DModel, folder, "unet", variant, torch_dtype=torch.float32)
        self._unet = unet.to(self.device).eval().requires_grad_(False)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return 3, height, width

    def encode(self, images: Tensor) -> Tensor:
        return images.to(self.device, torch.float32)

    def decode(self, z0: Tensor) -> Tensor:
        return z0.clamp(-1.0, 1.0)

    def text(self, prompts: Sequence[str]) -> Conditioning:
        """The model is told nothing: every image is of the same class."""
        return Conditioning(labels=torch.zeros(len(prompts), dtype=torch.long, device=self.device))

    def predicted_noise(self, z_t: Tensor, t: int | Tensor, conditioning: Conditioning) -> Tensor:
        output = self._unet(z_t, self.schedule.time(t)).sample
        return self.schedule.noise_from_output(output, z_t, t)

    def in_float32(self) -> Self:
        return self

    def parameters(self) -> dict[str, Tensor]:
        return dict(self._unet.named_parameters())

    def predicted_noise_with(self, parameters: Mapping[str, Tensor], z_t: Tensor, t: int, conditioning: Conditioning) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            called = functional_call(self._unet, dict(parameters), (z_t, self.schedule.time(t)), {"return_dict": False})
        return self.schedule.noise_from_output(called[0], z_t, t)
