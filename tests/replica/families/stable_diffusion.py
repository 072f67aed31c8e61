"""Stable Diffusion 1 in miniature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from raymia.testbed.architecture import save_tiny
from tests.replica.families.case import Case, encode_kl


def save(folder: Path) -> Path:
    save_tiny(folder)
    return folder


def predict(pipeline: Any, noisy: Tensor, step: float, prompts: Sequence[str]) -> Tensor:
    """train_text_to_image.py: the UNet under the text encoder's last states."""
    tokens = pipeline.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt")
    states = pipeline.text_encoder(tokens.input_ids).last_hidden_state
    output: Tensor = pipeline.unet(noisy, torch.tensor([int(step)] * len(noisy)), states).sample
    return output


CASE = Case(
    family="stable_diffusion",
    pipeline=StableDiffusionPipeline,
    save=save,
    predict=predict,
    encode=encode_kl,
    arguments={"guidance_scale": 1.0},
    denoiser="unet",
)
