"""FLUX.2 klein: FLUX.2's transformer under Qwen3's states, distilled to few steps or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from raymia.replica.conditioning import Conditioning, tokens_of
from raymia.replica.configs import read_config
from raymia.replica.documents import read_json
from raymia.replica.families import Ability, LoadOptions
from raymia.replica.flux2 import AUTOENCODER, TEXT_TOKENS, TRANSFORMER, Flux2Diffusion, Flux2Family, latents_of_tokens
from raymia.replica.own_pipeline import PROMPT, OneStep, guided_step
from raymia.replica.parts import Parts
from raymia.replica.protocol import Replica
from raymia.replica.tokenizers import as_chat, check_chat, check_tokenizer

LAYERS = (9, 18, 27)
"""Of the language model, whose states stand side by side."""
AS_CHAT = partial(as_chat, thinking=False)


class Flux2Klein(Flux2Family):
    """Pipelines of a Flux2Transformer2DModel that is told no guidance scale, under three layers of Qwen3."""

    name: ClassVar = "flux2_klein"
    title: ClassVar = "FLUX.2 klein"
    pipelines: ClassVar = ("Flux2KleinPipeline",)
    parts: ClassVar = {
        "transformer": TRANSFORMER,
        "vae": AUTOENCODER,
        "text_encoder": "transformers.Qwen3ForCausalLM",
        "tokenizer": "transformers.Qwen2Tokenizer",
    }
    fields: ClassVar = ("is_distilled",)
    refused: ClassVar = "inpainting, key-value caches, FLUX.3"

    def check(self, folder: Path) -> None:
        encoder = read_config(folder, "text_encoder", self.parts["text_encoder"])
        self.check_shapes(folder, encoder, LAYERS, guided=False)
        parts = Parts(folder, self.parts)
        check_tokenizer(parts, "tokenizer", encoder, TEXT_TOKENS)
        check_chat(parts, "tokenizer", AS_CHAT)
        self.schedule(folder)

    def lacks(self, folder: Path) -> Mapping[Ability, str]:
        if not self._distilled(folder):
            return {}
        how = "the model was distilled to few steps without guidance"
        return {"unconditional": f"{how}: it has no unconditional prediction to guide from; set guidance: 1"}

    def own_step(self, folder: Path, options: LoadOptions, height: int, width: int) -> OneStep:
        asked = guided_step(height, width)
        if self._distilled(folder):
            return OneStep(asked.arguments, (PROMPT,), unpacked=latents_of_tokens)
        return OneStep(asked.arguments, asked.prompts, asked.guidance, latents_of_tokens)

    def load(self, parts: Parts, options: LoadOptions) -> Replica:
        return _Replica(self, parts, options)

    @staticmethod
    def _distilled(folder: Path) -> bool:
        return bool(read_json(folder / "model_index.json").get("is_distilled", False))


class _Replica(Flux2Diffusion):
    def _load_text(self, parts: Parts) -> None:
        self._tokenizer, self._encoder = parts.tokenizer(), parts.model("text_encoder", self.dtype).to(self.text_device)

    def _encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """States of three layers side by side, of each prompt as a user's words in a chat; padding counts like words."""
        texts = [AS_CHAT(self._tokenizer, prompt) for prompt in prompts]
        tokens = tokens_of(self._tokenizer, texts, TEXT_TOKENS, self.device)
        # Its head, of a number for each of 150,000 words, is not asked.
        seen: Any = self._encoder.model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, output_hidden_states=True, use_cache=False
        )
        return Conditioning(states=torch.cat([seen.hidden_states[layer] for layer in LAYERS], dim=-1))
