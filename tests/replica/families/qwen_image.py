"""Qwen-Image in miniature."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from raymia.replica.qwen_image import BEFORE
from tests.replica.families.case import PROMPTS, Case

CHANNELS, JOINT = 4, 48
MEAN, STD = [-0.7, 0.1, 1.5, -0.3], [2.8, 1.4, 0.6, 3.2]


def qwen_tokenizer(**fields: Any) -> Qwen2Tokenizer:
    """Qwen2's tokenizer with the words of the pipeline's own text and of the prompts."""
    learner = Qwen2Tokenizer().backend_tokenizer
    trainer = BpeTrainer(vocab_size=4000, min_frequency=1, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    learner.train_from_iterator([BEFORE, "assistant\n", *PROMPTS], trainer)
    model = json.loads(learner.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return Qwen2Tokenizer(
        vocab=model["vocab"], merges=merges, additional_special_tokens=["<|im_start|>", "<|im_end|>"], **fields
    )


def save(folder: Path) -> Path:
    """A pipeline of Qwen-Image's shape, written by diffusers itself."""
    tokenizer = qwen_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = QwenImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
            vae=AutoencoderKLQwenImage(
                base_dim=8, z_dim=CHANNELS, dim_mult=[1, 1, 2, 2], num_res_blocks=1, latents_mean=MEAN, latents_std=STD
            ),
            text_encoder=Qwen2_5_VLForConditionalGeneration(text_config(tokenizer)),
            tokenizer=tokenizer,
            transformer=QwenImageTransformer2DModel(
                in_channels=4 * CHANNELS,
                out_channels=CHANNELS,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=JOINT,
                axes_dims_rope=(4, 6, 6),
            ),
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def text_config(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLConfig:
    """Two layers that see texts, and one that sees images."""
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": JOINT,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "bos_token_id": None,
            "eos_token_id": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 2, 2]},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": JOINT,
            "fullatt_block_indexes": [0],
        },
    )


def packed(latents: Tensor, height: int, width: int) -> Tensor:
    return QwenImagePipeline._pack_latents(latents, len(latents), latents.shape[1], height, width)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """By the pipeline's own, which counts in pixels of an autoencoder that halves three times."""
    return QwenImagePipeline._unpack_latents(tokens, 8 * height, 8 * width, 8)[:, :, 0]


def encode(pipeline: Any, images: Tensor) -> Tensor:
    """train_dreambooth_lora_qwen_image.py: the mode of the first frame's posterior, scaled channel by channel."""
    with torch.no_grad():
        latents = pipeline.vae.encode(images.unsqueeze(2)).latent_dist.mode()
    mean, scale = torch.tensor(MEAN).view(1, -1, 1, 1, 1), 1.0 / torch.tensor(STD).view(1, -1, 1, 1, 1)
    scaled: Tensor = (latents - mean) * scale
    return scaled.squeeze(2)


def predict(pipeline: Any, noisy: Tensor, sigma: float, prompts: Sequence[str]) -> Tensor:
    """train_dreambooth_lora_qwen_image.py: the transformer over packed latents, told sigma."""
    states, mask = pipeline.encode_prompt(list(prompts), max_sequence_length=512)
    height, width = noisy.shape[-2:]
    output = pipeline.transformer(
        hidden_states=packed(noisy, height, width),
        timestep=torch.full((len(noisy),), sigma),
        encoder_hidden_states=states,
        encoder_hidden_states_mask=mask,
        img_shapes=[[(1, height // 2, width // 2)]] * len(noisy),
        return_dict=False,
    )[0]
    return unpacked(output, height, width)


def seen(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call's states without those of padding, which stand behind the others and which the mask hides."""
    told = dict(call)
    states = told.pop("encoder_hidden_states")
    mask = told.pop("encoder_hidden_states_mask", torch.ones(states.shape[:2]))
    counts = mask.sum(1).long().tolist()
    assert all(bool(row[:count].all()) for row, count in zip(mask, counts, strict=True)), "padding before the text"
    return {**told, "encoder_hidden_states": [row[:count] for row, count in zip(states, counts, strict=True)]}


CASE = Case(
    family="qwen_image",
    pipeline=QwenImagePipeline,
    save=save,
    predict=predict,
    encode=encode,
    arguments={"true_cfg_scale": 1.0},
    unpacked=unpacked,
    seen=seen,
)
