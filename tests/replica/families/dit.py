"""DiT in miniature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from torch import Tensor

from tests.replica.families.case import Case, encode_kl
from tests.replica.families.sd3 import new_vae


def save(folder: Path, **fields: Any) -> Path:
    """A pipeline of the shape of DiT-XL-2-256, written by diffusers itself."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = DiTTransformer2DModel(
            **{
                "num_attention_heads": 2,
                "attention_head_dim": 8,
                "out_channels": 8,
                "num_layers": 2,
                "sample_size": 8,
                **fields,
            }
        )
        pipeline = DiTPipeline(
            transformer=transformer,
            vae=new_vae(4, scaling_factor=0.18215),
            scheduler=DDIMScheduler(beta_schedule="linear", clip_sample=False),
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def classes(prompts: Sequence[str]) -> list[int]:
    return [int(prompt) for prompt in prompts]


def predict(pipeline: Any, noisy: Tensor, step: float, prompts: Sequence[str]) -> Tensor:
    """facebookresearch/DiT's train.py: the transformer under classes, the first half of what it puts out."""
    output: Tensor = pipeline.transformer(
        noisy, timestep=torch.tensor([int(step)] * len(noisy)), class_labels=torch.tensor(classes(prompts))
    ).sample
    return output.chunk(2, dim=1)[0]


CASE = Case(
    family="dit",
    pipeline=DiTPipeline,
    save=save,
    predict=predict,
    encode=encode_kl,
    arguments={"guidance_scale": 1.0},
    tells="class_labels",
    asks=classes,
    prompts=("207", "3"),
)
