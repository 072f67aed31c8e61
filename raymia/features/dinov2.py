"""DINOv2 embeddings of images through transformers, from safetensors only.

Source: Oquab et al., DINOv2: Learning Robust Visual Features without Supervision, arXiv 2304.07193.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers import Dinov2Config, Dinov2Model

from raymia.digests import files_digest
from raymia.documents import DocumentError, parse_json, read_document
from raymia.errors import ConfigError
from raymia.features import hub
from raymia.features.sscd import MEAN, STD

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
MAX_CONFIG_BYTES = 2**20
KIND = "dinov2"
SIDE_PX = 224
"""That images are resized to, whatever their shape: a whole number of patches."""
LARGEST = {"hidden_size": 4096, "num_hidden_layers": 128, "image_size": 4096, "num_attention_heads": 256, "mlp_ratio": 64}
"""What a config may say at most."""


class Dinov2:
    """A DINOv2, in float32 on one device."""

    def __init__(self, model: str, device: torch.device) -> None:
        """Load a model.

        Args:
            model: a folder with ``config.json`` and ``model.safetensors``, or a hub id, with ``@REVISION`` or the newest.
            device: where it computes.

        Raises:
            ConfigError: the model cannot be had, is no DINOv2, or is not whole.
        """
        self._model = _loaded(model).to(device).requires_grad_(False)
        self._mean = torch.tensor(MEAN, device=device)[:, None, None]
        self._std = torch.tensor(STD, device=device)[:, None, None]

    @torch.no_grad()
    def embed_images(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch width"]:
        """Unit embeddings (the normalised class token) of images in [-1, 1], resized (bicubic, antialiased) to 224 x 224 px."""
        x = images.float() / 2 + 0.5
        side = (SIDE_PX, SIDE_PX)
        if x.shape[-2:] != side:
            x = functional.interpolate(x, size=side, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        token: Tensor = self._model((x - self._mean) / self._std).pooler_output
        return functional.normalize(token, dim=1)


def check_dinov2(model: str) -> None:
    """Refuse a DINOv2 that cannot be had or, in a folder, is not whole.

    Args:
        model: see `Dinov2`.

    Raises:
        ConfigError: names it and what is expected.
    """
    if not Path(model).is_dir():
        _settings(_fetched(model, (CONFIG_FILE,))[0])
        return
    _loaded(model)


def pinned(model: str) -> str:
    """The name of a DINOv2 with the revision that the hub gives now; a folder's is its own.

    Args:
        model: see `Dinov2`.

    Raises:
        ConfigError: the hub does not give it and its cache lacks it.
    """
    return hub.pinned(model, lambda: _fetched(model, (CONFIG_FILE,))[0])


def fingerprint(model: str) -> str:
    """What identifies a DINOv2: sha256 over the folder's config and weights, or the repository and its revision.

    Args:
        model: see `Dinov2`; of the hub one that is `pinned`.

    Raises:
        ConfigError: a file cannot be read.
    """
    return files_digest(Path(model), _files(model)) if Path(model).is_dir() else model


def _files(model: str) -> tuple[Path, Path]:
    """The config, and the file of the weights."""
    folder = Path(model)
    if not folder.is_dir():
        config, weights = _fetched(model, (CONFIG_FILE, WEIGHTS_FILE))
        return config, weights
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise ConfigError(f"copies: {folder} has no {name}; expected a folder of DINOv2 as transformers saves it")
    return folder / CONFIG_FILE, folder / WEIGHTS_FILE


def _fetched(model: str, files: Sequence[str]) -> list[Path]:
    """Files of the hub's repository, in its cache."""
    what = f"copies: dinov2 {model!r}: no such folder, and the hub does not give {', '.join(files)}"
    return hub.fetched(*hub.parted(model), files, what)


def _settings(file: Path) -> Dinov2Config:
    """The config of a plain DINOv2 that takes images of `SIDE_PX`."""
    try:
        content = parse_json(read_document(file, MAX_CONFIG_BYTES))
    except (OSError, DocumentError) as error:
        raise ConfigError(f"{file}: not a readable config of transformers ({error})") from error
    kind = content.get("model_type") if isinstance(content, dict) else None
    if kind != KIND:
        raise ConfigError(f"{file}: model_type is {kind!r}; expected {KIND!r}")
    _require_small(content, file)
    with hub.foreign(f"{file}: no DINOv2 can be made of it"):
        # A checkpoint of another task is refused by its tensors.
        settings = Dinov2Config.from_dict(content)
    if SIDE_PX % settings.patch_size:
        raise ConfigError(f"{file}: patch_size is {settings.patch_size}; expected one by which {SIDE_PX} px are whole patches")
    return settings


def _require_small(content: dict[str, Any], file: Path) -> None:
    for field, most in {**LARGEST, "patch_size": SIDE_PX}.items():
        value = content.get(field, 1)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 1 <= value <= most:
            raise ConfigError(f"{file}: {field} is {value!r}; expected a number from 1 to {most}")


def _loaded(model: str) -> Dinov2Model:
    """The network with its weights, all of them and no others, in float32 on the CPU."""
    config, weights = _files(model)
    settings = _settings(config)
    with hub.foreign(f"{weights}: no DINOv2 can be loaded from it"):
        # transformers knows by which names earlier versions of it saved the tensors.
        network, found = Dinov2Model.from_pretrained(
            weights.parent,
            config=settings,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # so that the tensor can be named
        )
    for problem, word in (
        ("missing_keys", "missing"),
        ("unexpected_keys", "none of a DINOv2's"),
        ("mismatched_keys", "of another shape"),
    ):
        if names := sorted(str(one[0] if isinstance(one, tuple) else one) for one in found[problem]):
            raise ConfigError(f"{weights}: the tensor {names[0]} is {word}; expected Dinov2Model as transformers saves it")
    for name, tensor in network.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise ConfigError(f"{weights}: the tensor {name} is not finite; the weights are damaged")
    network.eval()
    return network
