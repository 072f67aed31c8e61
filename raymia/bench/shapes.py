"""The published shapes of Stable Diffusion 1.5, 2.1 and SDXL-base, to be filled with random weights: speed needs no others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

FACTOR, CHANNELS = 8, 4
"""Pixels by side of a latent, and channels of latents: the same in all of them."""
TOKENS = 77

CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": CHANNELS,
}


@dataclass(frozen=True)
class Family:
    """The shapes of one model.

    Attributes:
        unet: arguments of diffusers' UNet2DConditionModel.
        text_width: of the text states.
        text_layers: of the text encoder; none where a replica cannot be of the family.
        resolution_px: that it was trained at last.
        added: further conditions of the UNet by name, as widths.
    """

    unet: dict[str, Any]
    text_width: int
    resolution_px: int
    text_layers: int = 0
    added: dict[str, int] = field(default_factory=dict)

    def new_unet(self) -> UNet2DConditionModel:
        """With random weights, on the default device."""
        return UNet2DConditionModel(**self.unet)

    def new_vae(self) -> AutoencoderKL:
        """With random weights, on the default device; all families' autoencoders have one shape."""
        return AutoencoderKL(**VAE)

    def inputs(self, batch: int, resolution_px: int, device: str, dtype: torch.dtype) -> dict[str, Any]:
        """Arguments of a call of the UNet."""
        side = resolution_px // FACTOR
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        added: dict[str, Tensor] = {name: torch.randn(batch, width, **options) for name, width in self.added.items()}
        return {
            "sample": torch.randn(batch, CHANNELS, side, side, **options),
            "timestep": torch.full((batch,), 100, device=device),
            "encoder_hidden_states": torch.randn(batch, TOKENS, self.text_width, **options),
            **({"added_cond_kwargs": added} if added else {}),
        }


FAMILIES = {
    "sd15": Family({"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64}, 768, 512, 12),
    "sd21": Family(
        {
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
            "sample_size": 96,
        },
        1024,
        768,
        23,
    ),
    "sdxl": Family(
        {
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", CROSS_DOWN, CROSS_DOWN),
            "up_block_types": (CROSS_UP, CROSS_UP, "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
            "sample_size": 128,
        },
        2048,
        1024,
        added={"text_embeds": 1280, "time_ids": 6},
    ),
}


@dataclass(frozen=True)
class Flops:
    """Floating point operations of one image, a multiplication and an addition counting as two."""

    unet: int
    encode: int
    decode: int


def count_flops(family: Family, resolution_px: int) -> Flops:
    """Exact counts, by running the shapes without numbers; takes seconds."""
    with torch.device("meta"):
        unet, vae = family.new_unet(), family.new_vae()
        inputs = family.inputs(1, resolution_px, "meta", torch.float32)
        image = torch.empty(1, 3, resolution_px, resolution_px)
        latents = inputs["sample"]

    def counted(module: nn.Module, *arguments: Any, **named: Any) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(*arguments, **named)
        return int(counter.get_total_flops())

    return Flops(counted(unet, **inputs), counted(_Call(vae.encode), image), counted(_Call(vae.decode), latents))


class _Call(nn.Module):
    """A method as a module, which is what the counter follows."""

    def __init__(self, method: Any) -> None:
        super().__init__()
        self._method = method

    def forward(self, argument: Tensor) -> Any:
        return self._method(argument)
