"""Z-Image in miniature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

from tests.replica.families.case import Case, encode_kl
from tests.replica.families.qwen_image import qwen_tokenizer
from tests.replica.families.sd3 import new_vae

JOINT = 48
CHAT = """\
{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{ 'of no thought' }}{% endif %}{% endif %}"""


def save(folder: Path, shift: float = 3.0) -> Path:
    """A pipeline of Z-Image-Turbo's shape, written by diffusers itself."""
    tokenizer = qwen_tokenizer(chat_template=CHAT)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = ZImageTransformer2DModel(
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=JOINT,
            axes_dims=[4, 6, 6],
            axes_lens=[640, 64, 64],
        )
        for token in (transformer.x_pad_token, transformer.cap_pad_token):
            torch.nn.init.normal_(token)
        pipeline = ZImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
            vae=new_vae(scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=Qwen3Model(text_config(tokenizer)),
            tokenizer=tokenizer,
            transformer=transformer,
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def text_config(tokenizer: Qwen2Tokenizer) -> Qwen3Config:
    """Three layers, so that the last but one is not the first."""
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=JOINT,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=1024,
    )


def predict(pipeline: Any, noisy: Tensor, sigma: float, prompts: Sequence[str]) -> Tensor:
    """train_dreambooth_lora_z_image.py: the transformer over a list of frames, told 1 - sigma; its output is turned round."""
    states, _ = pipeline.encode_prompt(list(prompts), do_classifier_free_guidance=False)
    timesteps = torch.full((len(noisy),), 1000.0 * sigma)
    outputs = pipeline.transformer(list(noisy.unsqueeze(2).unbind(0)), (1000 - timesteps) / 1000, states, return_dict=False)[0]
    return -torch.stack(outputs, dim=0).squeeze(2)


CASE = Case(
    family="z_image",
    pipeline=ZImagePipeline,
    save=save,
    predict=predict,
    encode=encode_kl,
    arguments={"guidance_scale": 0.0},
)
