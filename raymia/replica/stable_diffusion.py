"""Stable Diffusion 1.x and 2.x, and what has their shape: one UNet, one text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from transformers import CLIPTextModel, CLIPTokenizer

from raymia.errors import ConfigError
from raymia.replica.conditioning import Conditioning, token_ids
from raymia.replica.families import LoadOptions
from raymia.replica.folder import present, read_json
from raymia.replica.protocol import Replica
from raymia.replica.unet import UNetDiffusion, UNetFamily, check_unet
from raymia.replica.weights import load_part, load_tokenizer

OTHERS = ("StableDiffusionXL", "StableDiffusion3")
"""Beginnings of the names of other families' pipelines."""


class StableDiffusion(UNetFamily):
    """Pipelines of a UNet (epsilon or v-prediction) under the last hidden states of one CLIP text encoder."""

    name: ClassVar = "stable_diffusion"
    title: ClassVar = "Stable Diffusion 1.x or 2.x"
    weights: ClassVar = {
        "unet": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
    }
    files: ClassVar = ("scheduler/*.json", "tokenizer/*.json", "tokenizer/*.txt")
    resolution_px: ClassVar = 512

    def matches(self, model_index: Mapping[str, Any]) -> bool:
        kind = str(model_index.get("_class_name"))
        return kind.startswith("StableDiffusion") and not kind.startswith(OTHERS)

    def check(self, folder: Path) -> None:
        index = read_json(folder / "model_index.json")
        extra = [part for part in ("text_encoder_2", "transformer", "prior") if present(index, part)]
        if extra:
            raise ConfigError(f"{folder}: has {extra[0]}, which is not supported in a {index.get('_class_name')}")
        unet = check_unet(folder)
        read_json(folder / "text_encoder" / "config.json")
        if unet.get("addition_embed_type") or unet.get("class_embed_type"):
            raise ConfigError(f"{folder}/unet: needs conditions other than text, which are not supported")
        self.schedule(folder)

    def load(self, folder: Path, variant: str | None, options: LoadOptions) -> Replica:
        return _Replica(self, folder, variant, options)


class _Replica(UNetDiffusion):
    def _load_text(self, folder: Path, variant: str | None, resolution_px: int) -> None:
        encoder = load_part(CLIPTextModel, folder, "text_encoder", variant, dtype=self.dtype)
        self._text_encoder = encoder.to(self.device).eval().requires_grad_(False)
        self._tokenizer = load_tokenizer(CLIPTokenizer, folder)

    def _encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Last hidden states of the prompts, padded and cut to the tokenizer's length."""
        ids = token_ids(self._tokenizer, prompts).to(self.device)
        return Conditioning(states=self._text_encoder(ids).last_hidden_state)

    def _arguments(self, conditioning: Conditioning) -> dict[str, Any]:
        return {"encoder_hidden_states": conditioning.states}
