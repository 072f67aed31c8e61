"""DDPM in miniature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import Tensor

from tests.replica.families.case import Case

SIDE_PX = 32


def new_unet(channels: int, side: int, **fields: Any) -> UNet2DModel:
    """A UNet of two halvings, with attention."""
    return UNet2DModel(
        **{
            "sample_size": side,
            "in_channels": channels,
            "out_channels": channels,
            "block_out_channels": (8, 16, 16),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            **fields,
        }
    )


def save(folder: Path, **fields: Any) -> Path:
    """A pipeline of the shape of Google's DDPMs, written by diffusers itself; its sampler clips, as theirs does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = DDPMPipeline(unet=new_unet(3, SIDE_PX, **fields), scheduler=DDPMScheduler())
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def predict(pipeline: Any, noisy: Tensor, step: float, prompts: Sequence[str]) -> Tensor:
    """train_unconditional.py: the UNet, told the step alone."""
    output: Tensor = pipeline.unet(noisy, torch.tensor([int(step)] * len(noisy))).sample
    return output


def encode(pipeline: Any, images: Tensor) -> Tensor:
    return images


CASE = Case(
    family="ddpm",
    pipeline=DDPMPipeline,
    save=save,
    predict=predict,
    encode=encode,
    denoiser="unet",
    tells="",
    side_px=SIDE_PX,
)
