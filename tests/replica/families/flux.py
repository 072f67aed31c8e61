"""FLUX.1-dev in miniature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPTextModel, T5EncoderModel

from tests.replica.families.case import Case, clip_config, clip_tokenizer, encode_kl, t5_config, t5_tokenizer
from tests.replica.families.sd3 import new_vae

POOLED, JOINT = 32, 48


def save(folder: Path, guidance_embeds: bool = True) -> Path:
    """A pipeline of FLUX.1's shape, written by diffusers itself."""
    tokenizer, second = clip_tokenizer(), t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(
                shift=3.0 if guidance_embeds else 1.0, use_dynamic_shifting=guidance_embeds
            ),
            vae=new_vae(scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=CLIPTextModel(clip_config(tokenizer, POOLED, POOLED)),
            tokenizer=tokenizer,
            text_encoder_2=T5EncoderModel(t5_config(second, JOINT)),
            tokenizer_2=second,
            transformer=FluxTransformer2DModel(
                in_channels=64,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=JOINT,
                pooled_projection_dim=POOLED,
                guidance_embeds=guidance_embeds,
                axes_dims_rope=(4, 6, 6),
            ),
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def packed(latents: Tensor, height: int, width: int) -> Tensor:
    return FluxPipeline._pack_latents(latents, len(latents), latents.shape[1], height, width)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """By the pipeline's own, which counts in pixels of an autoencoder that halves three times."""
    return FluxPipeline._unpack_latents(tokens, 8 * height, 8 * width, 8)


def predict(pipeline: Any, noisy: Tensor, sigma: float, prompts: Sequence[str]) -> Tensor:
    """train_dreambooth_lora_flux.py: the transformer over packed latents, told sigma and a guidance scale of one."""
    states, pooled, text_ids = pipeline.encode_prompt(list(prompts), None)
    height, width = noisy.shape[-2:]
    ids = FluxPipeline._prepare_latent_image_ids(len(noisy), height // 2, width // 2, "cpu", noisy.dtype)
    guided = pipeline.transformer.config.guidance_embeds
    output = pipeline.transformer(
        hidden_states=packed(noisy, height, width),
        timestep=torch.full((len(noisy),), sigma),
        guidance=torch.ones(len(noisy)) if guided else None,
        pooled_projections=pooled,
        encoder_hidden_states=states,
        txt_ids=text_ids,
        img_ids=ids,
        return_dict=False,
    )[0]
    return unpacked(output, height, width)


CASE = Case(
    family="flux",
    pipeline=FluxPipeline,
    save=save,
    predict=predict,
    encode=encode_kl,
    arguments={"guidance_scale": 1.0},
    unpacked=unpacked,
)
