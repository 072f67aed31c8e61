"""Diffusion of the pixels themselves: a UNet without autoencoder and without text, over linear betas, as DDPM has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from raymia.errors import ConfigError
from raymia.replica.conditioning import Conditioning
from raymia.replica.configs import read_config
from raymia.replica.device import available, quiet_libraries
from raymia.replica.families import Ability, Family, LoadOptions
from raymia.replica.parameter_groups import unet_group
from raymia.replica.parts import Parts
from raymia.replica.protocol import Replica
from raymia.replica.schedule import Naming, Schedule, VariancePreserving
from raymia.replica.scheduler_config import read_scheduler


class Pixels(Family):
    """Pipelines of a UNet2DModel alone; the latents are the pixels."""

    name: ClassVar = "outside_pixels"
    title: ClassVar = "diffusion of pixels"
    pipelines: ClassVar = ("OutsidePixelPipeline",)
    parts: ClassVar = {"unet": "diffusers.UNet2DModel"}
    resolution_px: ClassVar = 32
    levels: ClassVar = "variance preserving: noise or velocity"

    def check(self, folder: Path) -> None:
        unet = read_config(folder, "unet", self.parts["unet"])
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

    def lacks(self, folder: Path) -> Mapping[Ability, str]:
        nothing = "the model is told nothing of an image; leave the attack out"
        return {"condition": nothing, "words": nothing, "states": nothing, "unconditional": nothing}

    def latent_shape(self, folder: Path, resolution_px: int) -> tuple[int, int, int]:
        return 3, resolution_px, resolution_px

    def load(self, parts: Parts, options: LoadOptions) -> Replica:
        return PixelReplica(self, parts, options)

    def parameter_group(self, name: str) -> str | None:
        return unet_group(name)


class PixelReplica:
    """See `raymia.replica.protocol.Replica`."""

    batches_gradients = True

    def __init__(self, family: Pixels, parts: Parts, options: LoadOptions) -> None:
        if options.dtype != "float32":
            raise ConfigError(f"replica.dtype: {options.dtype}; {family.title} is computed in float32 alone")
        if options.compiled:
            raise ConfigError(f"replica.compile: {family.title} is not compiled; leave it out")
        self.device = torch.device(available(options.device))
        self.schedule = family.schedule(parts.folder, options.naming)
        self.parameter_group = family.parameter_group
        self.groups = family.groups
        self.denoiser_batch = options.denoiser_batch or 8
        quiet_libraries()
        self._unet = parts.model("unet", torch.float32).to(self.device)

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
