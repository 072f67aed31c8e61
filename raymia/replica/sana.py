"""Sana and Sana 1.5: a transformer with linear attention over latents of 1/32 of an image's side, under Gemma 2's states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from raymia.data.shapes import Shapes
from raymia.errors import ConfigError
from raymia.replica.aspects import aspects
from raymia.replica.autoencoder import Autoencoder, DCAutoencoder, native_px
from raymia.replica.conditioning import Conditioning, tokens_of
from raymia.replica.configs import read_config
from raymia.replica.families import LoadOptions
from raymia.replica.own_pipeline import OneStep, guided_step
from raymia.replica.parts import Parts
from raymia.replica.protocol import Replica
from raymia.replica.tokenizers import check_tokenizer
from raymia.replica.transformer import STEPS, FlowFamily, TransformerDiffusion, check_fields, check_kl, each

INSTRUCTION = "\n".join(
    [
        "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for image "
        "generation. Evaluate the level of detail in the user prompt:",
        "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial relationships "
        "to create vivid and concrete scenes.",
        "- If the prompt is already detailed, refine and enhance the existing details slightly without overcomplicating.",
        "Here are examples of how to transform or refine prompts:",
        "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping peacefully "
        "on a warm sunny windowsill, surrounded by pots of blooming red flowers.",
        "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street lamps, "
        "a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering glass skyscrapers.",
        "Please generate only the enhanced description for the prompt below and avoid including any additional commentary or "
        "evaluations:",
        "User Prompt: ",
    ]
)
"""What the pipeline puts before a prompt unless it is told otherwise, and never before the unconditional one."""
TEXT_TOKENS = 300
"""Length of the states that the transformer sees: the first and the last ones of a text that the instruction is before."""
SHARED = 2
"""Tokens of the instruction that the pipeline counts as those of the text."""


class Sana(FlowFamily):
    """Pipelines of a SanaTransformer2DModel that was not distilled, under the last states of Gemma 2."""

    name: ClassVar = "sana"
    title: ClassVar = "Sana"
    pipelines: ClassVar = ("SanaPipeline",)
    parts: ClassVar = {
        "transformer": "diffusers.SanaTransformer2DModel",
        "vae": "diffusers.AutoencoderDC",
        "text_encoder": "transformers.Gemma2Model",
        "tokenizer": "transformers.GemmaTokenizer",
    }
    resolution_px: ClassVar = 1024
    grain: ClassVar = 1
    refused: ClassVar = "Sana Sprint and ControlNet pipelines"

    def check(self, folder: Path) -> None:
        transformer = read_config(folder, "transformer", self.parts["transformer"])
        place, channels = folder / "transformer", transformer["in_channels"]
        check_kl(folder, self.parts["vae"], channels)
        width = transformer["num_attention_heads"] * transformer["attention_head_dim"]
        served = {
            "guidance_embeds": ((None, False), "a guidance scale, under which Sana Sprint was distilled to few steps,"),
            "patch_size": ((1,), "another packing"),
            "out_channels": ((2 * channels, channels), "an output of other channels"),
            "cross_attention_dim": ((width,), "text of another width than the image"),
        }
        check_fields(transformer, place, served)
        encoder = read_config(folder, "text_encoder", self.parts["text_encoder"])
        if transformer["caption_channels"] != encoder["hidden_size"]:
            width = transformer["caption_channels"]
            raise ConfigError(f"{place}: caption_channels {width}, but text_encoder is {encoder['hidden_size']} wide")
        if encoder.get("hidden_act") not in (None, encoder["hidden_activation"]):
            raise ConfigError(
                f"{folder}/text_encoder: hidden_act is {encoder['hidden_act']!r} and hidden_activation "
                f"{encoder['hidden_activation']!r}, which alone is read; remove one"
            )
        parts = Parts(folder, self.parts)
        check_tokenizer(parts, "tokenizer", encoder, TEXT_TOKENS)
        length = _length(parts.loaded["tokenizer"])
        if not TEXT_TOKENS <= length <= encoder["max_position_embeddings"]:
            raise ConfigError(
                f"{folder}/tokenizer: makes {length} tokens of a text and the instruction before it; expected "
                f"{TEXT_TOKENS} to {encoder['max_position_embeddings']}, as text_encoder takes"
            )
        self.schedule(folder)

    def native_px(self, folder: Path) -> int:
        return native_px(folder, "transformer", self.parts)

    def buckets(self, resolution_px: int) -> Shapes | None:
        return None if resolution_px == 256 else aspects(resolution_px)

    def own_step(self, folder: Path, options: LoadOptions, height: int, width: int) -> OneStep:
        asked = guided_step(height, width)
        # At the size that is asked for, and not at the nearest of the shapes.
        return OneStep({**asked.arguments, "use_resolution_binning": False}, asked.prompts, asked.guidance)

    def load(self, parts: Parts, options: LoadOptions) -> Replica:
        return _Replica(self, parts, options)


class _Replica(TransformerDiffusion):
    def __init__(self, family: Sana, parts: Parts, options: LoadOptions) -> None:
        # Before the model is loaded, since trying it out asks for it.
        config = read_config(parts.folder, "transformer", family.parts["transformer"])
        self._time_scale = float(config["timestep_scale"])
        super().__init__(family, parts, options)

    def _load_autoencoder(self, parts: Parts, batch: int) -> Autoencoder:
        return DCAutoencoder(parts, self.device, batch)

    def _load_text(self, parts: Parts) -> None:
        self._tokenizer, self._encoder = parts.tokenizer(), parts.model("text_encoder", self.dtype).to(self.text_device)
        self._tokenizer.padding_side = "right"

    def _encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Gemma's last states of the first token and of what stands at the end of the instruction and behind it.

        The empty prompt is the unconditional one, of a single token, which no instruction is before. Gemma looks back alone, so
        that what fills it up to the length of the others changes nothing.
        """
        texts = [(INSTRUCTION if prompt else "") + prompt.lower().strip() for prompt in prompts]
        length = _length(self._tokenizer)
        tokens = tokens_of(self._tokenizer, texts, length, self.device)
        states = self._encoder(tokens.input_ids, attention_mask=tokens.attention_mask, use_cache=False)[0]
        states, mask = (
            torch.cat([one[:, :1], one[:, length - TEXT_TOKENS + 1 :]], dim=1) for one in (states, tokens.attention_mask)
        )
        return Conditioning(states=states, mask=mask)

    def _output(self, denoiser: Callable[..., Any], latents: Tensor, times: Tensor, told: Conditioning) -> Tensor:
        output: Tensor = denoiser(
            hidden_states=latents,
            encoder_hidden_states=told.states,
            encoder_attention_mask=told.mask,
            timestep=each(times * STEPS * self._time_scale, len(latents)).to(latents.device),
            return_dict=False,
        )[0]
        return output[:, : latents.shape[1]]


def _length(tokenizer: Any) -> int:
    """Tokens that a text is padded and cut to together with the instruction before it."""
    return len(tokenizer.encode(INSTRUCTION)) + TEXT_TOKENS - SHARED
