"""What a family's case gives the checks that every family must pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTokenizer, T5Config, T5Tokenizer

from raymia.testbed.architecture import TOKENS, new_tokenizer

PROMPTS = ["a small picture", "of no meaning, a picture"]
SIDE_PX = 64


def unchanged(latents: Tensor, height: int, width: int) -> Tensor:
    return latents


@dataclass(frozen=True)
class Case:
    """A miniature of a family, and diffusers' own way to run and to train it.

    Attributes:
        family: its name.
        pipeline: diffusers' class.
        save: writes a pipeline folder with random weights, by diffusers.
        predict: what diffusers' training script asks the denoiser: takes a pipeline, noisy latents (batch, c, h, w), their
            level (sigma of a flow, the step of others) and prompts; gives the output in the latents' shape.
        encode: what diffusers' training script makes of images: takes a pipeline and images in [-1, 1].
        arguments: of the pipeline's call, so that no guidance changes what the denoiser puts out.
        packed, unpacked: between (batch, c, h, w) and what the pipeline moves; take latents, h and w.
        seen: what the denoiser makes of its arguments, where padding that it does not see may be of any length.
        denoiser: the pipeline's name of it.
        tells: the names that prompts go by in the pipeline's call; empty where it takes none.
        asks: makes of prompts what the pipeline takes.
        prompts: two of them.
        side_px: of images.
        rounding: of what two ways to compute the same may differ by.
    """

    family: str
    pipeline: type[Any]
    save: Callable[[Path], Path]
    predict: Callable[[Any, Tensor, float, Sequence[str]], Tensor]
    encode: Callable[[Any, Tensor], Tensor]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    packed: Callable[[Tensor, int, int], Tensor] = unchanged
    unpacked: Callable[[Tensor, int, int], Tensor] = unchanged
    seen: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
    denoiser: str = "transformer"
    tells: str = "prompt"
    asks: Callable[[Sequence[str]], Any] = list
    prompts: Sequence[str] = tuple(PROMPTS)
    side_px: int = SIDE_PX
    rounding: float = 1e-5


def encode_kl(pipeline: Any, images: Tensor) -> Tensor:
    """The mode of an AutoencoderKL's posterior, shifted and scaled as diffusers' training scripts do."""
    vae = pipeline.vae
    with torch.no_grad():
        latents = vae.encode(images.to(vae.dtype)).latent_dist.mode()
    shifted: Tensor = (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor
    return shifted


def clip_config(tokenizer: CLIPTokenizer, width: int, projected: int) -> CLIPTextConfig:
    """A CLIP text encoder of three layers."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        projection_dim=projected,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def clip_tokenizer() -> CLIPTokenizer:
    return new_tokenizer(PROMPTS)


def t5_tokenizer() -> T5Tokenizer:
    """T5's tokenizer over single letters."""
    letters = [("▁", -2.0), *((letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz,.")]
    specials = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5Tokenizer(vocab=[*specials, *letters], extra_ids=0, model_max_length=512)


def t5_config(tokenizer: T5Tokenizer, width: int) -> T5Config:
    """A T5 encoder of two layers."""
    return T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=8,
        d_ff=2 * width,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
