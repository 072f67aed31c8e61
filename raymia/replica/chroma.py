"""Chroma: FLUX.1's transformer without pooled vector and guidance scale, under T5's states alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from raymia.errors import ConfigError
from raymia.replica.conditioning import Conditioning, tokens_of
from raymia.replica.configs import read_config
from raymia.replica.families import LoadOptions
from raymia.replica.own_pipeline import OneStep, guided_step
from raymia.replica.packing import SIDE, packed, positions, unpacked
from raymia.replica.parameter_groups import SINGLE_BLOCKS, TRANSFORMER_GROUPS
from raymia.replica.parts import Parts
from raymia.replica.protocol import Replica
from raymia.replica.tokenizers import check_tokenizer
from raymia.replica.transformer import FlowFamily, TransformerDiffusion, check_fields, check_kl, each

T5_TOKENS = 512
"""Length of the text that T5 sees, as the pipeline pads it unless it is told otherwise."""


class Chroma(FlowFamily):
    """Pipelines of a ChromaTransformer2DModel, which sees of the padded text the words and the first padding token."""

    name: ClassVar = "chroma"
    title: ClassVar = "Chroma"
    pipelines: ClassVar = ("ChromaPipeline", "ChromaImg2ImgPipeline")
    parts: ClassVar = {
        "transformer": "diffusers.ChromaTransformer2DModel",
        "vae": "diffusers.AutoencoderKL",
        "text_encoder": "transformers.T5EncoderModel",
        "tokenizer": "transformers.T5Tokenizer",
    }
    resolution_px: ClassVar = 1024
    # Modulation comes from one layer of its own, and none of it is in the blocks.
    groups: ClassVar = tuple(
        group for group in (*TRANSFORMER_GROUPS[:-1], *SINGLE_BLOCKS, "out") if not group.endswith("modulation")
    )
    refused: ClassVar = "inpainting"

    def check(self, folder: Path) -> None:
        transformer = read_config(folder, "transformer", self.parts["transformer"])
        place = folder / "transformer"
        check_kl(folder, self.parts["vae"], transformer["in_channels"], per_channel=SIDE**2)
        same = (None, transformer["in_channels"])
        served = {"patch_size": ((1,), "another packing"), "out_channels": (same, "an output of other channels")}
        check_fields(transformer, place, served)
        encoder = read_config(folder, "text_encoder", self.parts["text_encoder"])
        if transformer["joint_attention_dim"] != encoder["d_model"]:
            width = transformer["joint_attention_dim"]
            raise ConfigError(f"{place}: joint_attention_dim {width}, but text_encoder is {encoder['d_model']} wide")
        check_tokenizer(Parts(folder, self.parts), "tokenizer", encoder, T5_TOKENS)
        self.schedule(folder)

    def own_step(self, folder: Path, options: LoadOptions, height: int, width: int) -> OneStep:
        asked = guided_step(height, width)
        return OneStep(asked.arguments, asked.prompts, asked.guidance, unpacked)

    def load(self, parts: Parts, options: LoadOptions) -> Replica:
        return _Replica(self, parts, options)


class _Replica(TransformerDiffusion):
    def _load_text(self, parts: Parts) -> None:
        self._tokenizer, self._encoder = parts.tokenizer(), parts.model("text_encoder", self.dtype).to(self.text_device)

    def _encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """T5's states of the words alone, and which tokens count: the words and one of padding."""
        tokens = tokens_of(self._tokenizer, prompts, T5_TOKENS, self.device)
        states = self._encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        places = torch.arange(T5_TOKENS, device=self.device)
        counted = places[None] <= tokens.attention_mask.sum(1, keepdim=True)
        return Conditioning(states=states, mask=counted.to(states.dtype))

    def _output(self, denoiser: Callable[..., Any], latents: Tensor, times: Tensor, told: Conditioning) -> Tensor:
        assert told.states is not None
        assert told.mask is not None
        height, width = latents.shape[-2:]
        tokens = packed(latents)
        output: Tensor = denoiser(
            hidden_states=tokens,
            timestep=each(times, len(latents)).to(latents.device),
            encoder_hidden_states=told.states,
            txt_ids=latents.new_zeros(told.states.shape[1], 3),
            img_ids=positions(height, width, latents.device).to(latents.dtype),
            attention_mask=torch.cat([told.mask, told.mask.new_ones(tokens.shape[:2])], dim=1),
            return_dict=False,
        )[0]
        return unpacked(output, height, width)
