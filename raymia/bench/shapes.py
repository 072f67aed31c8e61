"""The published shapes of Stable Diffusion 1.5, 2.1 and SDXL-base, filled with random weights: speed needs no others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

FACTOR, CHANNELS = 8, 4
"""Pixels that one latent spans in width and height, and channels of the latents: the same for all shapes."""
CONTEXT_TOKENS = 77
"""Tokens of a text, as CLIP's text encoders take them."""

CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
VAE_OPTIONS: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": CHANNELS,
}
"""Arguments of diffusers' AutoencoderKL: the same for all shapes."""


@dataclass(frozen=True)
class ModelShape:
    """The shapes of one model's parts.

    Attributes:
        unet: arguments of diffusers' UNet2DConditionModel.
        text_width: width of the text states.
        resolution_px: side of the images that the model was trained on last.
        text_layers: layers of the text encoder; 0 where no pipeline of one text encoder has this shape.
        added: widths of the UNet's further conditions, by name.
    """

    unet: dict[str, Any]
    text_width: int
    resolution_px: int
    text_layers: int = 0
    added: dict[str, int] = field(default_factory=dict)

    def new_unet(self) -> UNet2DConditionModel:
        """A UNet with random weights, on the default device."""
        return UNet2DConditionModel(**self.unet)

    def new_vae(self) -> AutoencoderKL:
        """An autoencoder with random weights, on the default device; all models' autoencoders have one shape."""
        return AutoencoderKL(**VAE_OPTIONS)

    def inputs(self, batch: int, resolution_px: int, device: str, dtype: torch.dtype) -> dict[str, Any]:
        """Arguments of one call of the UNet, by name, filled with noise.

        Args:
            batch: images in the call.
            resolution_px: side of the images, a multiple of `FACTOR`.
            device: where the tensors are made.
            dtype: type of all but the timesteps.
        """
        side = resolution_px // FACTOR
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        added: dict[str, Tensor] = {name: torch.randn(batch, width, **options) for name, width in self.added.items()}
        return {
            "sample": torch.randn(batch, CHANNELS, side, side, **options),
            "timestep": torch.full((batch,), 100, device=device),
            "encoder_hidden_states": torch.randn(batch, CONTEXT_TOKENS, self.text_width, **options),
            **({"added_cond_kwargs": added} if added else {}),
        }


SHAPES = {
    "sd15": ModelShape({"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64}, 768, 512, 12),
    "sd21": ModelShape(
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
    "sdxl": ModelShape(
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
    """Floating point operations for one image, a multiplication and an addition counting as two."""

    unet: int
    """Operations of one forward of the UNet."""
    encode: int
    decode: int


def count_flops(shape: ModelShape, resolution_px: int) -> Flops:
    """Count exactly, by running the model on tensors without numbers; takes seconds.

    Args:
        shape: shapes of the model.
        resolution_px: side of the image, a multiple of `FACTOR`.
    """
    with torch.device("meta"):
        unet, vae = shape.new_unet(), shape.new_vae()
        inputs = shape.inputs(1, resolution_px, "meta", torch.float32)
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
