"""SDXL in miniature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from raymia.testbed.architecture import new_vae
from tests.replica.families.case import SIDE_PX, Case, clip_config, clip_tokenizer, encode_kl

WIDTHS, PROJECTED, TIME_WIDTH = (32, 48), 40, 8


def save_sdxl(folder: Path, scheduler: Any, **options: Any) -> Path:
    """A pipeline of SDXL's shape with random weights, written by diffusers itself."""
    tokenizer = clip_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        configs = [clip_config(tokenizer, width, PROJECTED) for width in WIDTHS]
        unet = UNet2DConditionModel(
            sample_size=SIDE_PX // 8,
            block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=sum(WIDTHS),
            attention_head_dim=(2, 4),
            transformer_layers_per_block=(1, 2),
            use_linear_projection=True,
            norm_num_groups=16,
            addition_embed_type="text_time",
            addition_time_embed_dim=TIME_WIDTH,
            projection_class_embeddings_input_dim=PROJECTED + 6 * TIME_WIDTH,
        )
        vae = new_vae()
        vae.register_to_config(scaling_factor=0.13025, force_upcast=True)
        pipeline = StableDiffusionXLPipeline(
            vae=vae,
            text_encoder=CLIPTextModel(configs[0]),
            text_encoder_2=CLIPTextModelWithProjection(configs[1]),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=unet,
            scheduler=scheduler,
            add_watermarker=False,
            **options,
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def euler(**options: Any) -> EulerDiscreteScheduler:
    """The scheduler that SDXL-base ships with."""
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return EulerDiscreteScheduler(**betas, timestep_spacing="leading", steps_offset=1, **options)


def predict(pipeline: Any, noisy: Tensor, step: float, prompts: Sequence[str]) -> Tensor:
    """train_text_to_image_sdxl.py: the UNet under time_ids and text_embeds."""
    states, _, pooled, _ = pipeline.encode_prompt(list(prompts), do_classifier_free_guidance=False)
    sizes = torch.tensor([[SIDE_PX, SIDE_PX, 0, 0, SIDE_PX, SIDE_PX]] * len(noisy), dtype=states.dtype)
    added = {"time_ids": sizes, "text_embeds": pooled}
    output: Tensor = pipeline.unet(noisy, torch.tensor([int(step)] * len(noisy)), states, added_cond_kwargs=added).sample
    return output


CASE = Case(
    family="sdxl",
    pipeline=StableDiffusionXLPipeline,
    save=lambda folder: save_sdxl(folder, euler()),
    predict=predict,
    encode=encode_kl,
    arguments={"guidance_scale": 1.0},
    denoiser="unet",
)
