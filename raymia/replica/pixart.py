"""PixArt-alpha and PixArt-Sigma: a transformer over latents under T5's states, which predicts noise and its variance."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from raymia.data.shapes import Shapes
from raymia.errors import ConfigError
from raymia.replica.aspects import aspects
from raymia.replica.autoencoder import native_px
from raymia.replica.conditioning import Conditioning, tokens_of
from raymia.replica.configs import read_config
from raymia.replica.documents import read_json
from raymia.replica.families import LoadOptions
from raymia.replica.own_pipeline import OneStep, guided_step
from raymia.replica.parts import Parts
from raymia.replica.protocol import Replica
from raymia.replica.tokenizers import check_tokenizer
from raymia.replica.transformer import NoiseFamily, TransformerDiffusion, check_fields, check_kl, each

TEXT_TOKENS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}
"""Length of the text that T5 sees, by pipeline, as each pads it unless it is told otherwise."""
TOLD_SIZES = 128
"""The `sample_size` at which the pipeline of PixArt-alpha tells the transformer of the image's size."""


class PixArt(NoiseFamily):
    """Pipelines of a PixArtTransformer2DModel, of either name: Sigma reads longer texts and is told no sizes."""

    name: ClassVar = "pixart"
    title: ClassVar = "PixArt-alpha or PixArt-Sigma"
    pipelines: ClassVar = tuple(TEXT_TOKENS)
    parts: ClassVar = {
        "transformer": "diffusers.PixArtTransformer2DModel",
        "vae": "diffusers.AutoencoderKL",
        "text_encoder": "transformers.T5EncoderModel",
        "tokenizer": "transformers.T5Tokenizer",
    }
    resolution_px: ClassVar = 1024
    refused: ClassVar = "latent consistency, ControlNet"

    def check(self, folder: Path) -> None:
        transformer = read_config(folder, "transformer", self.parts["transformer"])
        place, channels = folder / "transformer", transformer["in_channels"]
        vae = check_kl(folder, self.parts["vae"], channels)
        check_fields(
            vae, folder / "vae", {"shift_factor": ((0, None), "a shift, which diffusers' pipelines of PixArt ignore,")}
        )
        width = transformer["num_attention_heads"] * transformer["attention_head_dim"]
        served = {
            "out_channels": ((channels, 2 * channels), "an output of other channels"),
            "patch_size": ((2,), "another packing"),
            "cross_attention_dim": ((width,), "text of another width than the image"),
            "attention_type": (("default",), "boxes beside the text"),
        }
        check_fields(transformer, place, served)
        if transformer["sample_size"] == TOLD_SIZES and self._pipeline(folder) == "PixArtSigmaPipeline":
            # Its pipeline tells no size, whatever the transformer's own rule for this sample_size is.
            check_fields(transformer, place, {"use_additional_conditions": ((False,), "a size beside the text")})
        encoder = read_config(folder, "text_encoder", self.parts["text_encoder"])
        if transformer["caption_channels"] != encoder["d_model"]:
            found = transformer["caption_channels"]
            raise ConfigError(f"{place}: caption_channels {found}, but text_encoder is {encoder['d_model']} wide")
        check_tokenizer(Parts(folder, self.parts), "tokenizer", encoder, self.tokens(folder))
        self.schedule(folder)

    def tokens(self, folder: Path) -> int:
        """Length of the text that T5 sees."""
        return TEXT_TOKENS[self._pipeline(folder)]

    def native_px(self, folder: Path) -> int:
        return native_px(folder, "transformer", self.parts)

    def buckets(self, resolution_px: int) -> Shapes | None:
        return None if resolution_px == 4096 else aspects(resolution_px)

    def own_step(self, folder: Path, options: LoadOptions, height: int, width: int) -> OneStep:
        asked = guided_step(height, width)
        # At the size that is asked for, and not at the nearest of the shapes.
        further = {"use_resolution_binning": False, "max_sequence_length": self.tokens(folder)}
        return OneStep({**asked.arguments, **further}, asked.prompts, asked.guidance)

    def load(self, parts: Parts, options: LoadOptions) -> Replica:
        return _Replica(self, parts, options)

    @staticmethod
    def _pipeline(folder: Path) -> str:
        return str(read_json(folder / "model_index.json")["_class_name"])


class _Replica(TransformerDiffusion):
    def __init__(self, family: PixArt, parts: Parts, options: LoadOptions) -> None:
        # Before the model is loaded, since trying it out asks for it.
        self._tokens = family.tokens(parts.folder)
        self._told_sizes = (
            family._pipeline(parts.folder) == "PixArtAlphaPipeline"
            and read_config(parts.folder, "transformer", family.parts["transformer"])["sample_size"] == TOLD_SIZES
        )
        super().__init__(family, parts, options)

    def _load_text(self, parts: Parts) -> None:
        self._tokenizer, self._encoder = parts.tokenizer(), parts.model("text_encoder", self.dtype).to(self.text_device)

    def _encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """T5's states of each prompt as the pipeline cleans it, and which of them are the text's own."""
        cleaned = cleaned_captions(prompts)
        tokens = tokens_of(self._tokenizer, cleaned, self._tokens, self.device)
        states = self._encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        return Conditioning(states=states, mask=tokens.attention_mask)

    def _output(self, denoiser: Callable[..., Any], latents: Tensor, times: Tensor, told: Conditioning) -> Tensor:
        output: Tensor = denoiser(
            latents,
            encoder_hidden_states=told.states,
            encoder_attention_mask=told.mask,
            timestep=each(times, len(latents)).to(latents.device),
            added_cond_kwargs=self._sizes(latents),
            return_dict=False,
        )[0]
        return output[:, : latents.shape[1]]

    def _sizes(self, latents: Tensor) -> dict[str, Tensor | None]:
        """Height and width of the scanned image in px and their ratio, where the model is told of them."""
        if not self._told_sizes:
            return {"resolution": None, "aspect_ratio": None}
        height, width = (side * self.autoencoder.factor for side in latents.shape[-2:])
        # Filled where they are needed: nothing is copied there.
        tall, wide, ratio = (latents.new_full((len(latents), 1), number) for number in (height, width, height / width))
        return {"resolution": torch.cat([tall, wide], 1), "aspect_ratio": ratio}


def cleaned_captions(prompts: Sequence[str]) -> list[str]:
    """Prompts as PixArt's pipelines clean them by default, with Beautiful Soup and ftfy: what the models were trained on."""
    module = importlib.import_module("diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha")
    cleaner = object.__new__(module.PixArtAlphaPipeline)
    return [cleaner._clean_caption(cleaner._clean_caption(prompt)) for prompt in prompts]
