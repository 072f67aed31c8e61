"""Stable Diffusion 1.x and 2.x, and what has their shape: one UNet, one text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from raymia.errors import ConfigError
from raymia.replica.autoencoder import check_config, latent_shape_of
from raymia.replica.conditioning import Conditioning
from raymia.replica.families import Family, LoadOptions
from raymia.replica.folder import read_json
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.replica.parameter_groups import unet_group
from raymia.replica.protocol import Replica
from raymia.replica.schedule import Naming, Schedule, VariancePreserving, read_scheduler
from raymia.replica.weights import load_part, load_tokenizer

OTHERS = ("StableDiffusionXL", "StableDiffusion3")
"""Beginnings of the names of other families' pipelines."""


class StableDiffusion(Family):
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

    def schedule(self, folder: Path, naming: Naming = "levels") -> Schedule:
        file = folder / "scheduler" / "scheduler_config.json"
        return VariancePreserving(read_scheduler(file), str(file), naming)

    def latent_shape(self, folder: Path, resolution_px: int) -> tuple[int, int, int]:
        return latent_shape_of(read_json(folder / "vae" / "config.json"), resolution_px)

    def load(self, folder: Path, variant: str | None, options: LoadOptions) -> Replica:
        return _Replica(self, folder, variant, options)

    def parameter_group(self, name: str) -> str | None:
        return unet_group(name)


class _Replica(LatentDiffusion):
    def _load_denoiser(self, folder: Path, variant: str | None) -> nn.Module:
        unet: nn.Module = load_part(UNet2DConditionModel, folder, "unet", variant, torch_dtype=self.dtype)
        return unet

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


def token_ids(tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """(batch, tokens) of the prompts, padded and cut to the tokenizer's length."""
    padded = tokenizer(
        list(prompts), padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
    )
    ids: Tensor = padded.input_ids
    return ids


def present(index: Mapping[str, object], part: str) -> bool:
    """Whether a ``model_index.json`` says that the pipeline has a part."""
    value = index.get(part)
    return isinstance(value, list) and bool(value) and value[0] is not None


def check_unet(folder: Path) -> dict[str, Any]:
    """The UNet's config, of a folder whose UNet and autoencoder fit together.

    Raises:
        ConfigError: they do not, or the autoencoder's latents are scaled in another way.
    """
    unet, vae = read_json(folder / "unet" / "config.json"), read_json(folder / "vae" / "config.json")
    check_config(vae, folder / "vae")
    channels, latent = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if channels != latent:
        raise ConfigError(
            f"{folder}/unet: in_channels {channels} but the autoencoder has {latent}; inpainting UNets are not supported"
        )
    if unet.get("time_cond_proj_dim") is not None:
        raise ConfigError(f"{folder}/unet: time_cond_proj_dim: a consistency model, distilled to few steps, is not supported")
    return unet
