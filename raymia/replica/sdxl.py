"""SDXL and its fine-tunes: a larger UNet under two text encoders, a pooled vector and sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from raymia.errors import ConfigError
from raymia.replica.conditioning import Conditioning, token_ids
from raymia.replica.families import LoadOptions
from raymia.replica.folder import present, read_json
from raymia.replica.protocol import Replica
from raymia.replica.unet import UNetDiffusion, UNetFamily, check_unet
from raymia.replica.weights import load_part, load_tokenizer

PIPELINES = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline")
ENCODERS = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
SIZES = 6
"""Numbers that the UNet is told of an image: height and width, top and left of the crop, height and width of the result."""


class SDXL(UNetFamily):
    """Pipelines of a UNet (epsilon or v-prediction) under the last but one hidden states of two CLIP text encoders.

    The sizes are constants for all images, (R, R, 0, 0, R, R) at resolution R: an image's own would tell the model of the file.
    """

    name: ClassVar = "sdxl"
    title: ClassVar = "SDXL"
    weights: ClassVar = {
        "unet": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
        "text_encoder_2": "model",
    }
    files: ClassVar = ("model_index.json", "scheduler/*.json", "tokenizer*/*.json", "tokenizer*/*.txt")
    resolution_px: ClassVar = 1024

    def matches(self, model_index: Mapping[str, Any]) -> bool:
        return str(model_index.get("_class_name")).startswith("StableDiffusionXL")

    def check(self, folder: Path) -> None:
        index = read_json(folder / "model_index.json")
        kind = index.get("_class_name")
        if kind not in PIPELINES:
            raise ConfigError(f"{folder}: a {kind} is not supported; expected {' or '.join(PIPELINES)}")
        lacking = [part for part in ENCODERS if not present(index, part)]
        if lacking or index.get("requires_aesthetics_score"):
            raise ConfigError(f"{folder}: a refiner or a pipeline without {' and '.join(lacking) or 'sizes'} is not supported")
        unet = check_unet(folder)
        if unet.get("addition_embed_type") != "text_time":
            raise ConfigError(
                f"{folder}/unet: addition_embed_type {unet.get('addition_embed_type')!r}; expected 'text_time', as in SDXL"
            )
        pooled = int(read_json(folder / "text_encoder_2" / "config.json").get("projection_dim", 0))
        expected = unet.get("projection_class_embeddings_input_dim")
        found = pooled + SIZES * int(unet.get("addition_time_embed_dim") or 0)
        if found != expected:
            raise ConfigError(
                f"{folder}/unet: projection_class_embeddings_input_dim {expected}, but text_encoder_2 and {SIZES} sizes give "
                f"{found}"
            )
        self.schedule(folder)

    def load(self, folder: Path, variant: str | None, options: LoadOptions) -> Replica:
        return _Replica(self, folder, variant, options)


class _Replica(UNetDiffusion):
    def _load_text(self, folder: Path, variant: str | None, resolution_px: int) -> None:
        self._encoders = []
        for part, kind in ENCODERS.items():
            encoder = load_part(kind, folder, part, variant, dtype=self.dtype).to(self.device).eval().requires_grad_(False)
            self._encoders.append((load_tokenizer(CLIPTokenizer, folder, TOKENIZERS[part]), encoder))
        self._zeros = bool(read_json(folder / "model_index.json").get("force_zeros_for_empty_prompt", True))
        self._sizes = torch.tensor([resolution_px, resolution_px, 0, 0, resolution_px, resolution_px], device=self.device)

    def _encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """States of both encoders side by side, the second one's pooled vector, and the sizes.

        Where the pipeline forces zeros for the empty prompt, as SDXL does, that one's states and pooled vector are zeros.
        """
        states: list[Tensor] = []
        for tokenizer, encoder in self._encoders:
            output = encoder(token_ids(tokenizer, prompts).to(self.device), output_hidden_states=True)
            states.append(output.hidden_states[-2])
        together, pooled = torch.cat(states, dim=-1), output.text_embeds
        if self._zeros:
            kept = torch.tensor([prompt != "" for prompt in prompts], device=self.device)
            together, pooled = together * kept[:, None, None], pooled * kept[:, None]
        sizes = self._sizes.to(together.dtype).expand(len(prompts), SIZES)
        return Conditioning(states=together, pooled=pooled, ids=sizes)

    def _arguments(self, conditioning: Conditioning) -> dict[str, Any]:
        added = {"text_embeds": conditioning.pooled, "time_ids": conditioning.ids}
        return {"encoder_hidden_states": conditioning.states, "added_cond_kwargs": added}
