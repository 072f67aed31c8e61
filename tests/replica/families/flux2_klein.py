"""FLUX.2 klein in miniature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

from tests.replica.families.case import Case
from tests.replica.families.qwen_image import qwen_tokenizer
from tests.replica.families.z_image import CHAT

STATES = 16


def new_autoencoder() -> AutoencoderKLFlux2:
    """Its statistics are not those of an untrained one, which would change nothing."""
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 16, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=64
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    return vae


def new_transformer(states: int, guided: bool) -> Flux2Transformer2DModel:
    return Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=states,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guided,
    )


def text_config(tokenizer: Qwen2Tokenizer) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=STATES,
        intermediate_size=24,
        num_hidden_layers=28,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=1024,
        pad_token_id=tokenizer.pad_token_id,
    )


def save(folder: Path, is_distilled: bool = False) -> Path:
    """A pipeline of klein's shape, written by diffusers itself."""
    tokenizer = qwen_tokenizer(chat_template=CHAT)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = Flux2KleinPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=new_autoencoder(),
            text_encoder=Qwen3ForCausalLM(text_config(tokenizer)),
            tokenizer=tokenizer,
            transformer=new_transformer(3 * STATES, guided=False),
            is_distilled=is_distilled,
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def predict(pipeline: Any, noisy: Tensor, sigma: float, prompts: Sequence[str], guidance: Tensor | None = None) -> Tensor:
    """train_dreambooth_lora_flux2_klein.py: the transformer over tokens of latents, under stacked states and places."""
    states, text_ids = pipeline.encode_prompt(list(prompts))
    output = pipeline.transformer(
        hidden_states=pipeline._pack_latents(noisy),
        timestep=torch.full((len(noisy),), sigma),
        guidance=guidance,
        encoder_hidden_states=states,
        txt_ids=text_ids,
        img_ids=pipeline._prepare_latent_ids(noisy),
        return_dict=False,
    )[0]
    return unpacked(output, *noisy.shape[-2:])


def encode(pipeline: Any, images: Tensor) -> Tensor:
    """What the pipeline makes of an image that it is given to edit."""
    with torch.no_grad():
        latents: Tensor = pipeline._encode_vae_image(images, torch.Generator())
    return latents


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    return tokens.permute(0, 2, 1).reshape(len(tokens), -1, height, width)


CASE = Case(
    family="flux2_klein",
    pipeline=Flux2KleinPipeline,
    save=save,
    predict=predict,
    encode=encode,
    arguments={"guidance_scale": 1.0},
    unpacked=unpacked,
)
