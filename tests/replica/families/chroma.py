"""Chroma in miniature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler, FluxPipeline
from torch import Tensor
from transformers import T5EncoderModel

from tests.replica.families.case import Case, encode_kl, t5_config, t5_tokenizer
from tests.replica.families.flux import packed, unpacked
from tests.replica.families.sd3 import new_vae

JOINT = 48


def save(folder: Path) -> Path:
    """A pipeline of Chroma's shape, written by diffusers itself."""
    tokenizer = t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = ChromaPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=new_vae(scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=T5EncoderModel(t5_config(tokenizer, JOINT)),
            tokenizer=tokenizer,
            transformer=ChromaTransformer2DModel(
                in_channels=64,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=JOINT,
                axes_dims_rope=(4, 6, 6),
                approximator_num_channels=8,
                approximator_hidden_dim=32,
                approximator_layers=1,
            ),
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def predict(pipeline: Any, noisy: Tensor, sigma: float, prompts: Sequence[str]) -> Tensor:
    """The transformer over packed latents as FLUX.1's training script asks it, under Chroma's own states and mask."""
    states, text_ids, mask, *_ = pipeline.encode_prompt(list(prompts), do_classifier_free_guidance=False)
    height, width = noisy.shape[-2:]
    ids = FluxPipeline._prepare_latent_image_ids(len(noisy), height // 2, width // 2, "cpu", noisy.dtype)
    tokens = packed(noisy, height, width)
    output = pipeline.transformer(
        hidden_states=tokens,
        timestep=torch.full((len(noisy),), sigma),
        encoder_hidden_states=states,
        txt_ids=text_ids,
        img_ids=ids,
        attention_mask=pipeline._prepare_attention_mask(len(noisy), tokens.shape[1], noisy.dtype, mask),
        return_dict=False,
    )[0]
    return unpacked(output, height, width)


CASE = Case(
    family="chroma",
    pipeline=ChromaPipeline,
    save=save,
    predict=predict,
    encode=encode_kl,
    arguments={"guidance_scale": 1.0},
    unpacked=unpacked,
)
