"""The miniature models: the parts and wiring of Stable Diffusion 1 and 3 at sizes that a laptop trains in minutes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from raymia.replica.schedule import STABLE_DIFFUSION_1

PIPELINE_VERSION = 1
"""Number of what `save_tiny` writes; a higher one makes the pipeline anew that is kept for each user."""
RESOLUTION_PX = 64
TOKENS = 32
TEXT_WIDTH = 64
FLOW_WIDTH = 64
"""Of the transformer's states."""
FLOW_TEXT_WIDTHS = (32, 48)
"""Of the two text encoders' states; both project to the first."""
FLOW_JOINT_WIDTH = 96
"""Of the text states that the transformer takes, which are as wide as T5's would be."""
START_TOKEN, END_TOKEN = "<|startoftext|>", "<|endoftext|>"
"""Tokens that begin and end every text."""

CLIP_CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 64, "patch_size": 8, "layers": 3, "width": 128, "head_width": 32},
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "shortest"},
}


def new_vae() -> AutoencoderKL:
    """Autoencoder with Stable Diffusion's four blocks: (batch, 3, 64, 64) to (batch, 4, 8, 8)."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=RESOLUTION_PX,
    )


def new_unet() -> UNet2DConditionModel:
    """Conditional UNet over (batch, 4, 8, 8) latents and (batch, tokens, 64) text states."""
    return UNet2DConditionModel(
        sample_size=RESOLUTION_PX // 8,
        block_out_channels=(32, 64, 64),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def new_transformer() -> SD3Transformer2DModel:
    """Stable Diffusion 3's transformer over (batch, 4, 8, 8) latents and (batch, tokens, 96) text states."""
    return SD3Transformer2DModel(
        sample_size=RESOLUTION_PX // 8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        attention_head_dim=16,
        num_attention_heads=FLOW_WIDTH // 16,
        joint_attention_dim=FLOW_JOINT_WIDTH,
        caption_projection_dim=FLOW_WIDTH,
        pooled_projection_dim=2 * FLOW_TEXT_WIDTHS[0],
        pos_embed_max_size=RESOLUTION_PX // 8,
        qk_norm="rms_norm",
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """CLIP text transformer of width 64 over the tokenizer's own vocabulary."""
    return CLIPTextModel(_text_config(tokenizer, TEXT_WIDTH, TEXT_WIDTH))


def new_flow_text_encoders(tokenizer: CLIPTokenizer) -> tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection]:
    """Two CLIP text transformers over the tokenizer's own vocabulary, of two widths, which project to one."""
    first, second = (
        CLIPTextModelWithProjection(_text_config(tokenizer, width, FLOW_TEXT_WIDTHS[0])) for width in FLOW_TEXT_WIDTHS
    )
    return first, second


def _text_config(tokenizer: CLIPTokenizer, width: int, projected: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        projection_dim=projected,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def new_scheduler() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion 1."""
    return DDIMScheduler(
        **STABLE_DIFFUSION_1, prediction_type="epsilon", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )


def new_flow_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """A flow from image to noise, whose levels are not shifted: images are small."""
    return FlowMatchEulerDiscreteScheduler(shift=1.0)


def new_tokenizer(captions: list[str]) -> CLIPTokenizer:
    """CLIP's byte-pair tokenizer cut to the merges that `captions` use; it splits them exactly as the full one does."""
    merges = _merges_used(captions, _clip_merges())
    alphabet = _byte_alphabet()
    tokens = [*alphabet, *(symbol + "</w>" for symbol in alphabet), *("".join(pair) for pair in merges), START_TOKEN, END_TOKEN]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[tuple(pair) for pair in merges],
        model_max_length=TOKENS,
    )


def save_pipeline(
    folder: Path,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write the parts in diffusers' pipeline layout, weights as safetensors of `dtype`."""
    _save_parts(folder, {"vae": vae, "unet": unet, "text_encoder": text_encoder}, dtype)
    _save_tokenizer(folder / "tokenizer", tokenizer)
    new_scheduler().save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def save_flow_pipeline(
    folder: Path,
    vae: AutoencoderKL,
    transformer: SD3Transformer2DModel,
    text_encoders: tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection],
    tokenizer: CLIPTokenizer,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write the parts in diffusers' pipeline layout of Stable Diffusion 3 without T5, weights as safetensors of `dtype`."""
    encoders = dict(zip(("text_encoder", "text_encoder_2"), text_encoders, strict=True))
    _save_parts(folder, {"vae": vae, "transformer": transformer, **encoders}, dtype)
    for name in ("tokenizer", "tokenizer_2"):
        _save_tokenizer(folder / name, tokenizer)
    new_flow_scheduler().save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusion3Pipeline",
        "_diffusers_version": "0.42.1",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_3": [None, None],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "tokenizer_3": [None, None],
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def _save_parts(folder: Path, parts: Mapping[str, Any], dtype: torch.dtype) -> None:
    for name, part in parts.items():
        part.to(dtype).save_pretrained(folder / name, safe_serialization=True)


def _save_tokenizer(folder: Path, tokenizer: CLIPTokenizer) -> None:
    tokenizer.save_pretrained(folder)
    vocabulary = folder / "tokenizer.json"
    vocabulary.write_text(json.dumps(json.loads(vocabulary.read_text()), separators=(",", ":")))


def save_tiny(folder: Path, seed: int = 0) -> None:
    """Write the whole pipeline with random weights from a seed, in a second."""
    tokenizer = new_tokenizer(["a small picture, of no meaning"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        save_pipeline(folder, new_vae(), new_unet(), new_text_encoder(tokenizer), tokenizer)


def _clip_merges() -> list[tuple[str, str]]:
    """Pairs of symbols that CLIP's tokenizer joins, first those that it joins first."""
    archive = files("open_clip").joinpath("bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(archive.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    return [(first, second) for first, second in (line.split() for line in lines)]


def _byte_alphabet() -> list[str]:
    """The character that stands for each byte in CLIP's vocabulary, in the order in which the vocabulary has them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    unprintable = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(unprintable)]


def _merges_used(captions: list[str], merges: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of the merges, in order, that byte-pair encoding of the captions applies."""
    rank = {pair: index for index, pair in enumerate(merges)}
    splitter = new_splitter()
    used: set[int] = set()
    for word in {word for caption in captions for word in splitter(caption)}:
        symbols = [*word[:-1], word[-1] + "</w>"]
        while len(symbols) > 1:
            best = min(pairwise(symbols), key=lambda pair: rank.get(pair, len(rank)))
            if best not in rank:
                break
            used.add(rank[best])
            merged: list[str] = []
            for symbol in symbols:
                if merged and (merged[-1], symbol) == best:
                    merged[-1] += symbol
                else:
                    merged.append(symbol)
            symbols = merged
    return [merges[index] for index in sorted(used)]


def new_splitter() -> Any:
    """A function that splits a caption into words as CLIP's tokenizer does, each in its byte alphabet."""
    tokenizer = CLIPTokenizer().backend_tokenizer

    def split(caption: str) -> list[str]:
        normalised = tokenizer.normalizer.normalize_str(caption)
        return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalised)]

    return split
