"""PixArt-alpha in miniature, at the size that is told; and PixArt-Sigma."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtSigmaPipeline, PixArtTransformer2DModel
from torch import Tensor
from transformers import T5EncoderModel

from tests.replica.families.case import Case, encode_kl, t5_config, t5_tokenizer
from tests.replica.families.sd3 import new_vae

WIDTH, HEADS = 24, 3
T5_WIDTH = 32


def save(folder: Path, kind: type[Any] = PixArtAlphaPipeline, **fields: Any) -> Path:
    """A pipeline of the shape of PixArt-XL-2-1024-MS, written by diffusers itself."""
    tokenizer = t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = PixArtTransformer2DModel(
            **{
                "num_attention_heads": HEADS,
                "attention_head_dim": WIDTH // HEADS,
                "in_channels": 4,
                "out_channels": 8,
                "num_layers": 2,
                "cross_attention_dim": WIDTH,
                "attention_bias": True,
                "sample_size": 128,
                "caption_channels": T5_WIDTH,
                **fields,
            }
        )
        # What modulates is nothing at random weights, so that time would change nothing.
        torch.nn.init.normal_(transformer.scale_shift_table)
        pipeline = kind(
            transformer=transformer,
            scheduler=DPMSolverMultistepScheduler(beta_schedule="linear", variance_type="learned_range"),
            vae=new_vae(4, scaling_factor=0.13025),
            text_encoder=T5EncoderModel(t5_config(tokenizer, T5_WIDTH)),
            tokenizer=tokenizer,
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def save_sigma(folder: Path) -> Path:
    """A pipeline of the shape of PixArt-Sigma-XL-2-1024-MS, whose transformer takes no sizes."""
    return save(folder, PixArtSigmaPipeline, use_additional_conditions=False)


def predict(pipeline: Any, noisy: Tensor, step: float, prompts: Sequence[str]) -> Tensor:
    """train_pixart_lora: the transformer under T5's masked states and sizes, the first half of what it puts out."""
    told = {"resolution": None, "aspect_ratio": None}
    if isinstance(pipeline, PixArtAlphaPipeline):
        height, width = (8 * side for side in noisy.shape[-2:])
        told = {
            "resolution": torch.tensor([[height, width]] * len(noisy), dtype=torch.float32),
            "aspect_ratio": torch.tensor([[height / width]] * len(noisy)),
        }
    states, mask, *_ = pipeline.encode_prompt(list(prompts), False, clean_caption=True, max_sequence_length=tokens_of(pipeline))
    output: Tensor = pipeline.transformer(
        noisy,
        encoder_hidden_states=states,
        encoder_attention_mask=mask,
        timestep=torch.tensor([int(step)] * len(noisy)),
        added_cond_kwargs=told,
    ).sample
    return output.chunk(2, dim=1)[0]


def tokens_of(pipeline: Any) -> int:
    return 120 if isinstance(pipeline, PixArtAlphaPipeline) else 300


def case(kind: type[Any], save: Any) -> Case:
    return Case(
        family="pixart",
        pipeline=kind,
        save=save,
        predict=predict,
        encode=encode_kl,
        arguments={"guidance_scale": 1.0, "use_resolution_binning": False},
        prompts=["a Small picture, https://example.com/of", "of no &amp; meaning, a picture"],
    )


CASE = case(PixArtAlphaPipeline, save)
SIGMA = case(PixArtSigmaPipeline, save_sigma)
