"""Unconditional latent diffusion in miniature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, LDMPipeline, VQModel
from torch import Tensor

from tests.replica.families.case import Case
from tests.replica.families.ddpm import new_unet, predict


def save(folder: Path, **fields: Any) -> Path:
    """A pipeline of the shape of CompVis' models of faces, written by diffusers itself."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vqvae = VQModel(
            block_out_channels=(8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=1,
            latent_channels=3,
            num_vq_embeddings=64,
            norm_num_groups=4,
            scaling_factor=0.5,
        )
        scheduler = DDIMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False)
        pipeline = LDMPipeline(vqvae=vqvae, unet=new_unet(3, 16, **fields), scheduler=scheduler)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def encode(pipeline: Any, images: Tensor) -> Tensor:
    """What the autoencoder makes before it quantises, scaled as the pipeline scales back."""
    with torch.no_grad():
        latents: Tensor = pipeline.vqvae.encode(images).latents * pipeline.vqvae.config.scaling_factor
    return latents


CASE = Case(
    family="ldm",
    pipeline=LDMPipeline,
    save=save,
    predict=predict,
    encode=encode,
    denoiser="unet",
    tells="",
)
