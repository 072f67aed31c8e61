"""Sana in miniature."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

from raymia.replica.tokenizers import UNMADE
from tests.replica.families.case import PROMPTS, Case

CHANNELS, WIDTH = 8, 48
INSTRUCTION: list[str] = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
"""What the pipeline puts before a prompt unless it is told otherwise."""


def gemma_tokenizer() -> GemmaTokenizer:
    """Gemma's tokenizer with the words of the pipeline's instruction and of the prompts, and a token for each byte."""
    learner = Tokenizer(BPE(byte_fallback=True))
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split("▁", behavior="merged_with_next")
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *UNMADE]
    trainer = BpeTrainer(vocab_size=2000, min_frequency=1, special_tokens=specials, show_progress=False)
    learner.train_from_iterator(["\n".join(INSTRUCTION).lower(), *INSTRUCTION, *PROMPTS], trainer)
    model = json.loads(learner.to_str())["model"]
    return GemmaTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]], add_bos_token=True)


def new_vae(**fields: Any) -> AutoencoderDC:
    """Five halvings as Sana's, with few channels."""
    widths = (8, 8, 8, 16, 16, 16)
    scales = ((), (), (), (), (), (5,))
    blocks = (*("ResBlock",) * 5, "EfficientViTBlock")
    taken = {
        "latent_channels": CHANNELS,
        "attention_head_dim": 8,
        "encoder_block_types": blocks,
        "decoder_block_types": blocks,
        "encoder_block_out_channels": widths,
        "decoder_block_out_channels": widths,
        "encoder_layers_per_block": (1,) * 6,
        "decoder_layers_per_block": (1,) * 6,
        "encoder_qkv_multiscales": scales,
        "decoder_qkv_multiscales": scales,
        "upsample_block_type": "interpolate",
        "downsample_block_type": "Conv",
        "scaling_factor": 0.41407,
    }
    return AutoencoderDC(**{**taken, **fields})


def save(folder: Path, vae: Mapping[str, Any] | None = None, **transformer: Any) -> Path:
    """A pipeline of Sana's shape, written by diffusers itself."""
    tokenizer = gemma_tokenizer()
    fields = {"in_channels": CHANNELS, "out_channels": CHANNELS, "sample_size": 4, **transformer}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = SanaPipeline(
            scheduler=DPMSolverMultistepScheduler(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"),
            vae=new_vae(**(vae or {})),
            text_encoder=Gemma2Model(text_config(tokenizer)),
            tokenizer=tokenizer,
            transformer=SanaTransformer2DModel(
                num_attention_heads=4,
                attention_head_dim=8,
                num_layers=2,
                num_cross_attention_heads=2,
                cross_attention_head_dim=16,
                cross_attention_dim=32,
                caption_channels=WIDTH,
                **fields,
            ),
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def text_config(tokenizer: GemmaTokenizer) -> Gemma2Config:
    """Gemma 2 with two layers, the first of which looks back eight tokens."""
    return Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        query_pre_attn_scalar=12,
        sliding_window=8,
    )


def encode(pipeline: Any, images: Tensor) -> Tensor:
    """train_dreambooth_lora_sana.py: the latent, which there is no posterior of, scaled."""
    with torch.no_grad():
        latents: Tensor = pipeline.vae.encode(images).latent
    return latents * pipeline.vae.config.scaling_factor


def predict(pipeline: Any, noisy: Tensor, sigma: float, prompts: Sequence[str]) -> Tensor:
    """train_dreambooth_lora_sana.py, with the instruction that Sana was trained under: the transformer, told 1000 sigma."""
    states, mask, _, _ = pipeline.encode_prompt(
        list(prompts), do_classifier_free_guidance=False, complex_human_instruction=INSTRUCTION
    )
    output: Tensor = pipeline.transformer(
        hidden_states=noisy,
        encoder_hidden_states=states,
        encoder_attention_mask=mask,
        timestep=torch.full((len(noisy),), 1000.0 * sigma),
        return_dict=False,
    )[0]
    return output


CASE = Case(
    family="sana",
    pipeline=SanaPipeline,
    save=save,
    predict=predict,
    encode=encode,
    arguments={"guidance_scale": 1.0, "use_resolution_binning": False},
    side_px=128,
)
