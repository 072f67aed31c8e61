"""Stable Diffusion 1.x and 2.x, and what has their shape: one UNet, one text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from raymia.replica.conditioning import Conditioning, token_ids
from raymia.replica.configs import read_config
from raymia.replica.families import LoadOptions
from raymia.replica.parts import Parts
from raymia.replica.protocol import Replica
from raymia.replica.tokenizers import check_tokenizer
from raymia.replica.unet import PARTS, UNetDiffusion, UNetFamily, check_unet


class StableDiffusion(UNetFamily):
    """Pipelines of a UNet (epsilon or v-prediction) under the last hidden states of one CLIP text encoder."""

    name: ClassVar = "stable_diffusion"
    title: ClassVar = "Stable Diffusion 1.x or 2.x"
    pipelines: ClassVar = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
    parts: ClassVar = {
        **PARTS,
        "text_encoder": "transformers.CLIPTextModel",
        "tokenizer": "transformers.CLIPTokenizer",
    }
    resolution_px: ClassVar = 512
    refused: ClassVar = "inpainting, depth, latent consistency"

    def check(self, folder: Path) -> None:
        encoder = read_config(folder, "text_encoder", self.parts["text_encoder"])
        check_unet(folder, text_width=encoder["hidden_size"])
        check_tokenizer(Parts(folder, self.parts), "tokenizer", encoder)
        self.schedule(folder)

    def load(self, parts: Parts, options: LoadOptions) -> Replica:
        return _Replica(self, parts, options)


class _Replica(UNetDiffusion):
    def _load_text(self, parts: Parts) -> None:
        self._text_encoder = parts.model("text_encoder", self.dtype).to(self.text_device)
        self._tokenizer = parts.tokenizer()

    def _encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Last hidden states of the prompts, padded and cut to the tokenizer's length."""
        ids = token_ids(self._tokenizer, prompts, device=self.device)
        return Conditioning(states=self._text_encoder(ids).last_hidden_state)

    def _arguments(self, told: Conditioning, height: int, width: int) -> dict[str, Any]:
        return {"encoder_hidden_states": told.states}
