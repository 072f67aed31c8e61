"""What families share whose denoiser is diffusers' UNet2DModel, which is told the noise level and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from raymia.errors import ConfigError
from raymia.replica.conditioning import Conditioning
from raymia.replica.configs import read_config
from raymia.replica.families import Ability, Family, LoadOptions
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.replica.own_pipeline import OneStep
from raymia.replica.parameter_groups import unet_group
from raymia.replica.parts import Parts
from raymia.replica.schedule import Naming, Schedule, VariancePreserving
from raymia.replica.scheduler_config import read_scheduler

UNET = "diffusers.UNet2DModel"
NOT_TOLD = {
    "class_embed_type": ((None,), "a class of each image"),
    "num_class_embeds": ((None,), "a class of each image"),
    "time_embedding_type": (("positional", "fourier", "learned"), "another time"),
}
"""Fields for which the model would be told more than its time."""
UNTOLD = "the model was trained without captions and is told nothing of an image"


class UnconditionalFamily(Family):
    """Pipelines of a UNet2DModel and a scheduler, over a variance-preserving schedule."""

    levels: ClassVar = "variance preserving: noise or velocity"

    def schedule(self, folder: Path, naming: Naming = "levels") -> Schedule:
        file = folder / "scheduler" / "scheduler_config.json"
        return VariancePreserving(read_scheduler(file), str(file), naming)

    def lacks(self, folder: Path) -> Mapping[Ability, str]:
        lacking: dict[Ability, str] = {
            "condition": f"{UNTOLD}; leave the attack out, or set guidance: 1 where it guides by captions",
            "words": f"{UNTOLD}; leave the attack out",
            "states": f"{UNTOLD}, so that no states of a text can be shifted; leave text_shift out",
            "unconditional": f"{UNTOLD}, so that nothing can be guided by it; set guidance: 1",
        }
        if self.autoencoder is None:
            lacking["autoencoder"] = "the model has no autoencoder, whose error is what the attack scores; leave it out"
        return lacking

    def check_options(self, folder: Path, options: LoadOptions) -> None:
        super().check_options(folder, options)
        unet = read_config(folder, "unet", UNET)
        grain = 2 ** (len(unet["block_out_channels"]) - 1) * self.factor(folder)
        if options.resolution_px % grain:
            raise ConfigError(
                f"replica.resolution_px {options.resolution_px} is not a multiple of {grain}, as the UNet in {folder} needs"
            )

    def factor(self, folder: Path) -> int:
        """Pixels by side of a latent."""
        return 1

    def native_px(self, folder: Path) -> int:
        return int(read_config(folder, "unet", UNET)["sample_size"]) * self.factor(folder)

    def own_step(self, folder: Path, options: LoadOptions, height: int, width: int) -> OneStep:
        # The pipeline takes no size: its images are those of the UNet's config.
        return OneStep({}, ("",))

    def parameter_group(self, name: str) -> str | None:
        return unet_group(name)


class UnconditionalDiffusion(LatentDiffusion):
    """A replica whose denoiser is the pipeline's `unet`."""

    def _load_denoiser(self, parts: Parts) -> nn.Module:
        unet: nn.Module = parts.model("unet", self.dtype).to(memory_format=self._layout)
        return unet

    def _load_text(self, parts: Parts) -> None:
        """There is none."""

    def _encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """No numbers for each prompt."""
        return Conditioning(ids=torch.zeros(len(prompts), 0, device=self.device))

    def _output(self, denoiser: Callable[..., Any], latents: Tensor, times: Tensor, told: Conditioning) -> Tensor:
        output: Tensor = denoiser(latents, times, return_dict=False)[0]
        return output


def check_unet(folder: Path, channels: int, what: str) -> dict[str, Any]:
    """The UNet's config, of a folder whose UNet sees and puts out that many channels and is told nothing but its time.

    Args:
        folder: of the pipeline.
        channels: that it must see.
        what: they are of, for errors.

    Raises:
        ConfigError: names the field.
    """
    unet, place = read_config(folder, "unet", UNET), folder / "unet"
    for field in ("in_channels", "out_channels"):
        if unet[field] != channels:
            more = "; a UNet that puts out a variance is not supported" if unet[field] == 2 * channels else ""
            raise ConfigError(f"{place}: {field} is {unet[field]}; expected the {channels} {what}{more}")
    for field, (served, meaning) in NOT_TOLD.items():
        if unet[field] not in served:
            raise ConfigError(f"{place}: {field} is {unet[field]!r}; {meaning} is not supported, expected {served[0]!r}")
    if not isinstance(unet["sample_size"], int):
        raise ConfigError(f"{place}: sample_size is {unet['sample_size']!r}; expected the side that the model was trained at")
    return unet
