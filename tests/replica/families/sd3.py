"""Stable Diffusion 3 in miniature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor
from transformers import CLIPTextModelWithProjection, T5EncoderModel

from tests.replica.families.case import Case, clip_config, clip_tokenizer, encode_kl, t5_config, t5_tokenizer

WIDTHS, PROJECTED, JOINT = (32, 48), 24, 96


def new_vae(channels: int = 16, **scaling: float) -> AutoencoderKL:
    """Three halvings less than Stable Diffusion's width, and more channels."""
    return AutoencoderKL(
        block_out_channels=(16, 16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=8,
        use_quant_conv=False,
        use_post_quant_conv=False,
        **scaling,
    )


def save(folder: Path, t5: bool = True, dual: bool = True, **scheduler: Any) -> Path:
    """A pipeline of SD 3.5's shape, written by diffusers itself."""
    tokenizer, third = clip_tokenizer(), t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = StableDiffusion3Pipeline(
            transformer=SD3Transformer2DModel(
                sample_size=8,
                patch_size=2,
                in_channels=16,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=4,
                joint_attention_dim=JOINT,
                caption_projection_dim=32,
                pooled_projection_dim=2 * PROJECTED,
                out_channels=16,
                pos_embed_max_size=16,
                dual_attention_layers=(0,) if dual else (),
                qk_norm="rms_norm" if dual else None,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **scheduler}),
            vae=new_vae(scaling_factor=1.5305, shift_factor=0.0609),
            text_encoder=CLIPTextModelWithProjection(clip_config(tokenizer, WIDTHS[0], PROJECTED)),
            tokenizer=tokenizer,
            text_encoder_2=CLIPTextModelWithProjection(clip_config(tokenizer, WIDTHS[1], PROJECTED)),
            tokenizer_2=tokenizer,
            text_encoder_3=T5EncoderModel(t5_config(third, JOINT)) if t5 else None,
            tokenizer_3=third if t5 else None,
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def predict(pipeline: Any, noisy: Tensor, sigma: float, prompts: Sequence[str]) -> Tensor:
    """train_dreambooth_sd3.py: the transformer under both CLIPs' and T5's states, told 1000 sigma."""
    states, _, pooled, _ = pipeline.encode_prompt(list(prompts), None, None, do_classifier_free_guidance=False)
    output: Tensor = pipeline.transformer(
        hidden_states=noisy,
        timestep=torch.full((len(noisy),), 1000.0 * sigma),
        encoder_hidden_states=states,
        pooled_projections=pooled,
        return_dict=False,
    )[0]
    return output


CASE = Case(
    family="sd3",
    pipeline=StableDiffusion3Pipeline,
    save=save,
    predict=predict,
    encode=encode_kl,
    arguments={"guidance_scale": 1.0},
)
