"""SDXL and its fine-tunes: a larger UNet under two text encoders, a pooled vector and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from raymia.data.shapes import Shapes
from raymia.errors import ConfigError
from raymia.replica.conditioning import Conditioning, token_ids
from raymia.replica.configs import read_config
from raymia.replica.device import onto
from raymia.replica.documents import read_json
from raymia.replica.families import LoadOptions
from raymia.replica.parts import Parts
from raymia.replica.protocol import Replica
from raymia.replica.tokenizers import check_tokenizer
from raymia.replica.unet import PARTS, UNetDiffusion, UNetFamily, check_unet

ENCODERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
"""The text encoders in the order of their states, each with its tokenizer."""
GRAIN_PX = 8
"""Sides of shapes are multiples of it, as the autoencoder needs."""
SIZES = 6
"""Numbers that the UNet is told of an image: height and width, top and left of the crop, height and width of the result."""


BUCKETS = (
    *((512, width) for width in (2048, 1984, 1920, 1856)),
    *((576, width) for width in (1792, 1728, 1664)),
    *((640, width) for width in (1600, 1536)),
    *((704, width) for width in (1472, 1408, 1344)),
    *((768, width) for width in (1344, 1280)),
    *((832, width) for width in (1216, 1152)),
    *((896, width) for width in (1152, 1088)),
    *((960, width) for width in (1088, 1024)),
)
"""Height and width of the shapes that SDXL was trained on at 1024 px, of those that are wider than high; the others are these
turned, and the square (Podell et al., arXiv 2307.01952, appendix I)."""


class SDXL(UNetFamily):
    """Pipelines of a UNet (epsilon or v-prediction) under the last but one hidden states of two CLIP text encoders.

    The sizes are those of the scanned image, (height, width, 0, 0, height, width), so that at one shape they are the same for
    all: those of its file would tell the model of the file. A job may ask for the file's size and the crop's corner instead.
    """

    name: ClassVar = "sdxl"
    title: ClassVar = "SDXL"
    pipelines: ClassVar = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline")
    parts: ClassVar = {
        **PARTS,
        "text_encoder": "transformers.CLIPTextModel",
        "text_encoder_2": "transformers.CLIPTextModelWithProjection",
        "tokenizer": "transformers.CLIPTokenizer",
        "tokenizer_2": "transformers.CLIPTokenizer",
    }
    fields: ClassVar = ("force_zeros_for_empty_prompt", "requires_aesthetics_score", "add_watermarker")
    resolution_px: ClassVar = 1024
    refused: ClassVar = "refiners, inpainting, latent consistency"

    def buckets(self, resolution_px: int) -> Shapes:
        wide = [(self._scaled(height, resolution_px), self._scaled(width, resolution_px)) for height, width in BUCKETS]
        turned = [(width, height) for height, width in wide]
        return Shapes(tuple(dict.fromkeys([(resolution_px, resolution_px), *wide, *turned])))

    def _scaled(self, side: int, resolution_px: int) -> int:
        return max(1, round(side * resolution_px / self.resolution_px / GRAIN_PX)) * GRAIN_PX

    def check_sizes(self, folder: Path, options: LoadOptions) -> None:
        """SDXL is told of sizes."""

    def check(self, folder: Path) -> None:
        if read_json(folder / "model_index.json").get("requires_aesthetics_score"):
            raise ConfigError(f"{folder}/model_index.json: requires_aesthetics_score: a refiner is not supported")
        encoders = {part: read_config(folder, part, self.parts[part]) for part in ENCODERS}
        text_width = sum(encoder["hidden_size"] for encoder in encoders.values())
        unet = check_unet(folder, text_width, addition="text_time")
        expected = unet["projection_class_embeddings_input_dim"]
        width = unet["addition_time_embed_dim"]
        found = encoders["text_encoder_2"]["projection_dim"] + SIZES * (width if isinstance(width, int) else 0)
        if found != expected:
            raise ConfigError(
                f"{folder}/unet: projection_class_embeddings_input_dim {expected}, but text_encoder_2 and {SIZES} sizes give "
                f"{found}"
            )
        for part, tokenizer in ENCODERS.items():
            check_tokenizer(Parts(folder, self.parts), tokenizer, encoders[part])
        self.schedule(folder)

    def load(self, parts: Parts, options: LoadOptions) -> Replica:
        return _Replica(self, parts, options)


class _Replica(UNetDiffusion):
    def _load_text(self, parts: Parts) -> None:
        self._encoders = [
            (parts.tokenizer(tokenizer), parts.model(part, self.dtype).to(self.text_device))
            for part, tokenizer in ENCODERS.items()
        ]
        self._zeros = bool(read_json(parts.folder / "model_index.json").get("force_zeros_for_empty_prompt", True))

    def _encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """States of both encoders side by side, and the second one's pooled vector.

        Where the pipeline forces zeros for the empty prompt, as SDXL does, that one's states and pooled vector are zeros.
        """
        states: list[Tensor] = []
        for tokenizer, encoder in self._encoders:
            output = encoder(token_ids(tokenizer, prompts, device=self.device), output_hidden_states=True)
            states.append(output.hidden_states[-2])
        together, pooled = torch.cat(states, dim=-1), output.text_embeds
        if self._zeros:
            kept = onto(self.device, torch.tensor([prompt != "" for prompt in prompts]))
            together, pooled = together * kept[:, None, None], pooled * kept[:, None]
        return Conditioning(states=together, pooled=pooled)

    def _arguments(self, told: Conditioning, height: int, width: int) -> dict[str, Any]:
        of_image = onto(self.device, torch.tensor([height, width, 0, 0, height, width], dtype=self.dtype))
        sizes = of_image.expand(len(told), SIZES)
        if told.ids is not None:
            sizes = torch.cat([told.ids.to(self.dtype), sizes[:, -2:]], dim=1)
        added = {"text_embeds": told.pooled, "time_ids": sizes}
        return {"encoder_hidden_states": told.states, "added_cond_kwargs": added}
