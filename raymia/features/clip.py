"""CLIP embeddings of images and texts through open_clip, from safetensors only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from jaxtyping import Float
from open_clip.pretrained import get_pretrained_cfg
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from raymia.errors import ConfigError, first_line

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"


class Clip:
    """A CLIP model, in float32 on one device."""

    def __init__(self, model: str, device: torch.device) -> None:
        """Load a model.

        Args:
            model: a folder with ``open_clip_config.json`` and ``open_clip_model.safetensors``, or
                ``ARCHITECTURE/PRETRAINED_TAG`` of open_clip, fetched from the hub.
            device: where it computes.

        Raises:
            ConfigError: the model is unknown or cannot be had as safetensors.
        """
        is_folder = Path(model).is_dir()
        config, weights = _local(Path(model)) if is_folder else _from_hub(model)
        self._model = open_clip.CLIP(**config["model_cfg"])
        try:
            self._model.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()})
        except (RuntimeError, SafetensorError) as error:
            raise ConfigError(f"{weights}: weights do not fit the config: {first_line(error)}") from error
        self._model.to(device).eval().requires_grad_(False)
        preprocess = config["preprocess_cfg"]
        self._tokenizer = open_clip.get_tokenizer(
            f"local-dir:{Path(model).resolve()}" if is_folder else model.partition("/")[0]
        )
        self._device = device
        self._side: int = config["model_cfg"]["vision_cfg"]["image_size"]
        self._mean = torch.tensor(preprocess["mean"], device=device)[:, None, None]
        self._std = torch.tensor(preprocess["std"], device=device)[:, None, None]

    def embed_images(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch width"]:
        """Unit embeddings of square images in [-1, 1], resized (bicubic, antialiased) to the model's side."""
        side = (self._side, self._side)
        x = images.float() / 2 + 0.5
        if x.shape[-2:] != side:
            x = functional.interpolate(x, size=side, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        with torch.no_grad():
            features: Tensor = self._model.encode_image((x - self._mean) / self._std, normalize=True)
        return features

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "batch width"]:
        """Unit embeddings of texts; longer ones are cut to what the model takes."""
        with torch.no_grad():
            features: Tensor = self._model.encode_text(self._tokenizer(list(texts)).to(self._device), normalize=True)
        return features


def check_clip(model: str) -> None:
    """Refuse a CLIP that cannot be had, before anything is started.

    Args:
        model: see `Clip`.

    Raises:
        ConfigError: the model cannot be had; names it and what is expected.
    """
    if Path(model).is_dir():
        _local(Path(model))
    else:
        _hub_config(model)


def _local(folder: Path) -> tuple[dict[str, dict[str, Any]], Path]:
    """The config, and the file of the weights."""
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise ConfigError(f"{folder}: no {WEIGHTS_FILE}; CLIP weights are loaded from safetensors only")
    try:
        return json.loads((folder / CONFIG_FILE).read_text()), weights
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / CONFIG_FILE}: not a readable open_clip config ({error})") from error


def _hub_config(model: str) -> tuple[str, str]:
    """The architecture, and the hub's repository of the weights."""
    architecture, _, tag = model.partition("/")
    pretrained = get_pretrained_cfg(architecture, tag)
    if not pretrained.get("hf_hub"):
        known = ", ".join(tag for name, tag in open_clip.list_pretrained() if name == architecture)
        raise ConfigError(
            f"clip {model!r}: not a folder, and open_clip has no hub weights by that name; give a folder or ARCHITECTURE/TAG"
            + (f" with one of {known}" if known else "")
        )
    return architecture, str(pretrained["hf_hub"]).rstrip("/")


def _from_hub(model: str) -> tuple[dict[str, dict[str, Any]], Path]:
    """The config, and the file of the weights, fetched from the hub."""
    _, repository = _hub_config(model)
    try:
        config = Path(hf_hub_download(repository, CONFIG_FILE))
        return json.loads(config.read_text()), Path(hf_hub_download(repository, WEIGHTS_FILE))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(f"clip {model!r}: cannot fetch {WEIGHTS_FILE} of {repository}: {first_line(error)}") from error
