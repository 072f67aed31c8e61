"""FLUX.2 dev: FLUX.2's transformer, distilled under guidance, under Mistral's states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE

from raymia.replica.conditioning import Conditioning, tokens_onto
from raymia.replica.configs import read_text_config
from raymia.replica.families import Ability, LoadOptions
from raymia.replica.flux import NO_GUIDANCE
from raymia.replica.flux2 import AUTOENCODER, TEXT_TOKENS, TRANSFORMER, Flux2Diffusion, Flux2Family, latents_of_tokens
from raymia.replica.own_pipeline import PROMPT, OneStep
from raymia.replica.parts import Parts
from raymia.replica.protocol import Replica
from raymia.replica.tokenizers import check_chat, check_tokenizer

LAYERS = (10, 20, 30)
"""Of the language model, whose states stand side by side."""
IMAGE = "[IMG]"
"""Where an image stands in a text, which the pipeline takes out of prompts."""


class Flux2Dev(Flux2Family):
    """Pipelines of a Flux2Transformer2DModel that is told a guidance scale, under three layers of Mistral 3."""

    name: ClassVar = "flux2_dev"
    title: ClassVar = "FLUX.2 dev"
    pipelines: ClassVar = ("Flux2Pipeline",)
    parts: ClassVar = {
        "transformer": TRANSFORMER,
        "vae": AUTOENCODER,
        "text_encoder": "transformers.Mistral3ForConditionalGeneration",
        "tokenizer": "transformers.PixtralProcessor",
    }
    refused: ClassVar = "quantised weights, FLUX.3"

    def check(self, folder: Path) -> None:
        text = read_text_config(folder, "text_encoder", self.parts["text_encoder"])
        self.check_shapes(folder, text, LAYERS, guided=True)
        parts = Parts(folder, self.parts)
        check_tokenizer(parts, "tokenizer", text, TEXT_TOKENS)
        check_chat(parts, "tokenizer", as_chat)
        self.schedule(folder)

    def lacks(self, folder: Path) -> Mapping[Ability, str]:
        how = "the model was distilled under guidance, and its own scale is replica.guidance"
        return {"unconditional": f"{how}: it has no unconditional prediction to guide from; set guidance: 1"}

    def check_options(self, folder: Path, options: LoadOptions) -> None:
        self.check_sizes(folder, options)

    def own_step(self, folder: Path, options: LoadOptions, height: int, width: int) -> OneStep:
        size = {"height": height, "width": width}
        arguments = {"prompt": PROMPT, **size, "guidance_scale": _guidance(options), "output_type": "latent"}
        return OneStep(arguments, (PROMPT,), unpacked=latents_of_tokens)

    def load(self, parts: Parts, options: LoadOptions) -> Replica:
        return _Replica(self, parts, options)


class _Replica(Flux2Diffusion):
    def __init__(self, family: Flux2Dev, parts: Parts, options: LoadOptions) -> None:
        # Before the model is loaded, since trying it out asks for it.
        self.guidance = _guidance(options)
        super().__init__(family, parts, options)

    def _load_text(self, parts: Parts) -> None:
        self._processor, self._encoder = parts.tokenizer(), parts.model("text_encoder", self.dtype).to(self.text_device)

    def _encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """States of three layers side by side, of each prompt behind the pipeline's instruction; padding counts like words."""
        texts, tokenizer = [as_chat(self._processor, prompt) for prompt in prompts], self._processor.tokenizer
        begun = tokenizer.bos_token is not None and texts[0].startswith(tokenizer.bos_token)
        options = {"padding": "max_length", "truncation": True, "max_length": TEXT_TOKENS, "return_tensors": "pt"}
        tokens = tokens_onto(self.device, tokenizer(texts, add_special_tokens=not begun, **options))
        # Neither what sees images nor the head, of a number for each of 131,072 words, is asked.
        seen: Any = self._encoder.model.language_model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, output_hidden_states=True, use_cache=False
        )
        return Conditioning(states=torch.cat([seen.hidden_states[layer] for layer in LAYERS], dim=-1))


def as_chat(processor: Any, prompt: str, template: str | None = None) -> str:
    """A prompt as the words of a user behind the pipeline's instruction, by the processor's own template.

    Args:
        processor: of transformers, which fills in templates in a sandbox.
        prompt: as it stands.
        template: in the place of the processor's own.
    """
    said = {"system": SYSTEM_MESSAGE, "user": prompt.replace(IMAGE, "")}
    words = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in said.items()]
    text: str = processor.apply_chat_template(words, chat_template=template, tokenize=False)
    return text


def _guidance(options: LoadOptions) -> float:
    return NO_GUIDANCE if options.guidance is None else options.guidance
