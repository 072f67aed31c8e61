"""FLUX.2 dev in miniature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Pipeline
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
    PreTrainedTokenizerFast,
)

from tests.replica.families import flux2_klein as klein
from tests.replica.families.case import PROMPTS, Case

STATES = 16
SPECIALS = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]"]
SPECIALS += ["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
CHAT = """\
{%- set today = strftime_now("%Y-%m-%d") %}
{%- set default_system_message = "The current date is " + today + "." %}

{{- bos_token }}

{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'][0]['text'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set system_message = default_system_message %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- '[SYSTEM_PROMPT]' + system_message + '[/SYSTEM_PROMPT]' }}

{%- for message in loop_messages %}
    {%- for block in message['content'] %}
        {{- '[INST]' + block['text'] + '[/INST]' }}
    {%- endfor %}
{%- endfor %}"""
"""As Mistral Small 3.1's, which asks for a date that comes into no text that has an instruction."""


def new_processor(chat_template: str = CHAT) -> PixtralProcessor:
    """Mistral's tokenizer with the words of the pipeline's own text and of the prompts, which fills up on the left."""
    learner = Tokenizer(models.BPE(ignore_merges=True))
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4000, min_frequency=1, initial_alphabet=alphabet, special_tokens=SPECIALS, show_progress=False
    )
    learner.train_from_iterator([SYSTEM_MESSAGE, *PROMPTS], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=learner, padding_side="left", **NAMED)
    return PixtralProcessor(
        image_processor=PixtralImageProcessor(), tokenizer=tokenizer, patch_size=14, chat_template=chat_template
    )


def text_config(tokenizer: PreTrainedTokenizerFast) -> Mistral3Config:
    """Thirty-one layers that see texts, and one that sees images."""
    return Mistral3Config(
        text_config={
            "model_type": "mistral",
            "vocab_size": len(tokenizer),
            "hidden_size": STATES,
            "intermediate_size": 24,
            "num_hidden_layers": 31,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "max_position_embeddings": 1024,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e9},
            "sliding_window": None,
        },
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        image_token_index=SPECIALS.index("[IMG]"),
        tie_word_embeddings=False,
    )


def save(folder: Path, chat_template: str = CHAT) -> Path:
    """A pipeline of dev's shape, written by diffusers itself."""
    processor = new_processor(chat_template)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = Flux2Pipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=klein.new_autoencoder(),
            text_encoder=Mistral3ForConditionalGeneration(text_config(processor.tokenizer)),
            tokenizer=processor,
            transformer=klein.new_transformer(3 * STATES, guided=True),
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def predict(pipeline: Any, noisy: Tensor, sigma: float, prompts: Sequence[str]) -> Tensor:
    """train_dreambooth_lora_flux2.py: as klein's, told a guidance scale."""
    return klein.predict(pipeline, noisy, sigma, prompts, guidance=torch.full((len(noisy),), 1.0))


CASE = Case(
    family="flux2_dev",
    pipeline=Flux2Pipeline,
    save=save,
    predict=predict,
    encode=klein.encode,
    arguments={"guidance_scale": 1.0},
    unpacked=klein.unpacked,
)
