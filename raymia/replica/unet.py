"""What families share whose denoiser is diffusers' conditional UNet over an autoencoder's latents."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from raymia.errors import ConfigError
from raymia.replica.autoencoder import check_config, latent_shape_of, native_px
from raymia.replica.conditioning import Conditioning
from raymia.replica.configs import read_config
from raymia.replica.families import Family
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.replica.parameter_groups import unet_group
from raymia.replica.parts import Parts
from raymia.replica.schedule import Naming, Schedule, VariancePreserving
from raymia.replica.scheduler_config import read_scheduler

PARTS: Mapping[str, str] = {"unet": "diffusers.UNet2DConditionModel", "vae": "diffusers.AutoencoderKL"}
"""What every such pipeline has beside text encoders, tokenizers and the scheduler."""
NOT_TOLD = {
    "time_cond_proj_dim": ((None,), "a consistency model, distilled to few steps,"),
    "class_embed_type": ((None,), "a condition other than text"),
    "num_class_embeds": ((None,), "a class of each image"),
    "encoder_hid_dim_type": ((None,), "a projection of the text states, or an image beside them,"),
    "encoder_hid_dim": ((None,), "a projection of the text states"),
    "dual_cross_attention": ((None, False), "a second text beside the first"),
    "attention_type": ((None, "default"), "boxes beside the text"),
}
"""Fields for which diffusers' pipelines would tell the UNet more than text and time; what they mean is not supported."""


class UNetFamily(Family):
    """Pipelines with parts `unet`, `vae` and `scheduler` of diffusers' layout, over a variance-preserving schedule."""

    levels: ClassVar = "variance preserving: noise or velocity"

    def schedule(self, folder: Path, naming: Naming = "levels") -> Schedule:
        file = folder / "scheduler" / "scheduler_config.json"
        return VariancePreserving(read_scheduler(file), str(file), naming)

    def latent_shape(self, folder: Path, resolution_px: int) -> tuple[int, int, int]:
        return latent_shape_of(read_config(folder, "vae", PARTS["vae"]), resolution_px)

    def native_px(self, folder: Path) -> int:
        return native_px(folder, "unet", PARTS)

    def parameter_group(self, name: str) -> str | None:
        return unet_group(name)


class UNetDiffusion(LatentDiffusion):
    """A replica whose denoiser is the pipeline's `unet`."""

    def _load_denoiser(self, parts: Parts) -> nn.Module:
        unet: nn.Module = parts.model("unet", self.dtype).to(memory_format=self._layout)
        return unet

    @abstractmethod
    def _arguments(self, told: Conditioning, height: int, width: int) -> dict[str, Any]:
        """What the UNet takes beside latents and time, by the names of its parameters.

        Args:
            told: with floating-point tensors in the replica's dtype.
            height, width: of the images in px.
        """

    def _output(self, denoiser: Callable[..., Any], latents: Tensor, times: Tensor, told: Conditioning) -> Tensor:
        height, width = (side * self.autoencoder.factor for side in latents.shape[-2:])
        output: Tensor = denoiser(latents, times, **self._arguments(told, height, width), return_dict=False)[0]
        return output


def check_unet(folder: Path, text_width: int, addition: str | None = None) -> dict[str, Any]:
    """The UNet's config, of a folder whose UNet fits its autoencoder and its text encoders, and is told nothing else.

    Args:
        folder: of the pipeline.
        text_width: of the hidden states that the text encoders give.
        addition: the `addition_embed_type` that the family serves.

    Raises:
        ConfigError: names the field; also of an autoencoder whose latents are scaled in another way.
    """
    unet, vae = (read_config(folder, part, path) for part, path in PARTS.items())
    check_config(vae, folder / "vae")
    if vae["shift_factor"] not in (None, 0):
        raise ConfigError(
            f"{folder}/vae: shift_factor is {vae['shift_factor']!r}, which diffusers' pipelines of a UNet ignore; remove it"
        )
    if unet["in_channels"] != vae["latent_channels"]:
        raise ConfigError(
            f"{folder}/unet: in_channels {unet['in_channels']} but the autoencoder has {vae['latent_channels']}; inpainting "
            "UNets are not supported"
        )
    if unet["out_channels"] != unet["in_channels"]:
        raise ConfigError(
            f"{folder}/unet: out_channels {unet['out_channels']}, but {unet['in_channels']} come in; a UNet that puts out a "
            "variance is not supported"
        )
    for field, (served, meaning) in {
        **NOT_TOLD,
        "addition_embed_type": ((addition,), "other conditions beside the text"),
    }.items():
        if unet[field] not in served:
            raise ConfigError(f"{folder}/unet: {field} {unet[field]!r}; {meaning} is not supported, expected {served[-1]!r}")
    widths = unet["cross_attention_dim"]
    if any(width != text_width for width in (widths if isinstance(widths, list | tuple) else [widths])):
        raise ConfigError(f"{folder}/unet: cross_attention_dim {widths}, but the text states are {text_width} wide")
    return unet
