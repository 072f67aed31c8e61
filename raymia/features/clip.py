"""CLIP embeddings of images and texts through open_clip, from safetensors only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from jaxtyping import Float
from open_clip.pretrained import get_pretrained_cfg
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from raymia.digests import files_digest
from raymia.documents import DocumentError, parse_json, read_document
from raymia.errors import ConfigError
from raymia.features import hub

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
MAX_CONFIG_BYTES = 2**20
ELSEWHERE = ("timm_model_name", "hf_model_name", "hf_tokenizer_name")
"""Fields of a tower for which open_clip takes a model or tokenizer of another library from elsewhere."""
UNUSED = ("resize_mode", "fill_color", "size")
"""Fields of the preprocessing that say nothing of square images, which are resized to the model's side."""
USED = {"mean": None, "std": None, "interpolation": "bicubic", "mode": "RGB"}
"""Fields of the preprocessing that are done, each with its one value where it may have no other."""


class Clip:
    """A CLIP model, in float32 on one device."""

    def __init__(self, model: str, device: torch.device) -> None:
        """Load a model.

        Args:
            model: a folder with ``open_clip_config.json`` and ``open_clip_model.safetensors``, or
                ``ARCHITECTURE/PRETRAINED_TAG`` of open_clip, fetched from the hub, with ``@REVISION`` of its repository there
                or the newest.
            device: where it computes.

        Raises:
            ConfigError: the model is unknown or cannot be had as safetensors.
        """
        is_folder = Path(model).is_dir()
        config, weights = _local(Path(model)) if is_folder else _from_hub(model)
        with hub.foreign(f"{weights.parent}: no CLIP can be built from {CONFIG_FILE}"):
            self._model = open_clip.CLIP(**config["model_cfg"])
        with hub.foreign(f"{weights}: weights do not fit the config"):
            self._model.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()})
        for name, tensor in self._model.state_dict().items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ConfigError(f"{weights}: the tensor {name} is not finite; the weights are damaged")
        self._model.to(device).eval().requires_grad_(False)
        preprocess = config["preprocess_cfg"]
        with hub.foreign(f"clip {model!r}: its tokenizer cannot be made"):
            self._tokenizer = open_clip.get_tokenizer(
                f"local-dir:{Path(model).resolve()}" if is_folder else _hub_config(model)[0]
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
    """Refuse a CLIP that cannot be had or is not whole, before anything is started.

    Args:
        model: see `Clip`.

    Raises:
        ConfigError: the model cannot be had; names it and what is expected.
    """
    if Path(model).is_dir():
        config, weights = _local(Path(model))
        _check_tensors(config, weights)
    else:
        _hub_config(model)


def pinned(model: str) -> str:
    """The name of a CLIP with the revision that the hub gives now; a folder's is its own.

    Args:
        model: see `Clip`.

    Raises:
        ConfigError: the hub does not give it and its cache lacks it.
    """
    return hub.pinned(model, lambda: _fetched(model, (CONFIG_FILE,))[0])


def fingerprint(model: str) -> str:
    """What identifies a CLIP: sha256 over a folder's files, or the repository and its revision.

    Args:
        model: see `Clip`; of the hub one that is `pinned`.

    Raises:
        ConfigError: a file cannot be read.
    """
    folder = Path(model)
    if folder.is_dir():
        return files_digest(folder, (file for file in folder.rglob("*") if file.is_file()))
    _, repository, revision = _hub_config(model)
    return f"{repository}@{revision}"


def _local(folder: Path) -> tuple[dict[str, dict[str, Any]], Path]:
    """The config, and the file of the weights."""
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise ConfigError(f"{folder}: no {WEIGHTS_FILE}; CLIP weights are loaded from safetensors only")
    return _config(folder / CONFIG_FILE), weights


def _config(file: Path) -> dict[str, dict[str, Any]]:
    """The config of a CLIP whose towers are open_clip's own and whose images are prepared as `Clip` does."""
    try:
        content = parse_json(read_document(file, MAX_CONFIG_BYTES))
    except (OSError, DocumentError) as error:
        raise ConfigError(f"{file}: not a readable open_clip config ({error})") from error
    model, preprocess = (content.get(n) if isinstance(content, dict) else None for n in ("model_cfg", "preprocess_cfg"))
    if not isinstance(model, dict) or not isinstance(preprocess, dict):
        raise ConfigError(f"{file}: expected an object with model_cfg and preprocess_cfg")
    for tower in ("vision_cfg", "text_cfg"):
        if not isinstance(model.get(tower), dict):
            raise ConfigError(f"{file}: model_cfg.{tower}: expected an object")
        elsewhere = [field for field in ELSEWHERE if model[tower].get(field) is not None]
        if elsewhere:
            raise ConfigError(f"{file}: {tower}.{elsewhere[0]}: towers and tokenizers of other libraries are not supported")
    if not isinstance(model["vision_cfg"].get("image_size"), int):
        raise ConfigError(
            f"{file}: vision_cfg.image_size is {model['vision_cfg'].get('image_size')!r}; expected the side in px"
        )
    _check_preprocessing(preprocess, file)
    return {"model_cfg": model, "preprocess_cfg": preprocess}


def _check_preprocessing(preprocess: Mapping[str, Any], file: Path) -> None:
    for field, value in preprocess.items():
        if value is not None and field not in (*USED, *UNUSED):
            raise ConfigError(
                f"{file}: preprocess_cfg.{field} is {value!r}, which is not done; remove it if it changes nothing"
            )
    for field, only in USED.items():
        if only is not None and preprocess.get(field) not in (only, None):
            raise ConfigError(f"{file}: preprocess_cfg.{field} is {preprocess[field]!r}; only {only} is supported")
    for field in ("mean", "std"):
        numbers = preprocess.get(field)
        if not (isinstance(numbers, list) and len(numbers) == 3 and all(_number(one) for one in numbers)):
            raise ConfigError(f"{file}: preprocess_cfg.{field} is {numbers!r}; expected three numbers")
    if any(one <= 0 for one in preprocess["std"]):
        raise ConfigError(f"{file}: preprocess_cfg.std is {preprocess['std']!r}; expected three numbers above 0")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_tensors(config: dict[str, dict[str, Any]], weights: Path) -> None:
    """Hold the header of the weights against the model that the config describes, built without memory."""
    with hub.foreign(f"{weights.parent}: no CLIP can be built from {CONFIG_FILE}"), torch.device("meta"):
        expected = {name: tuple(one.shape) for name, one in open_clip.CLIP(**config["model_cfg"]).state_dict().items()}
    with hub.foreign(f"{weights}: not readable as safetensors"), safe_open(weights, "pt") as tensors:
        found = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118 - no dictionary
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ConfigError(
                f"{weights}: the tensor {name} is {found.get(name, 'missing')}, and by the config "
                f"{expected.get(name, 'there is none')}; download it again"
            )


def _hub_config(model: str) -> tuple[str, str, str | None]:
    """The architecture, and the hub's repository of the weights with its revision, none for the newest."""
    name, revision = hub.parted(model)
    architecture, _, tag = name.partition("/")
    pretrained = get_pretrained_cfg(architecture, tag)
    if not pretrained.get("hf_hub"):
        known = ", ".join(tag for name, tag in open_clip.list_pretrained() if name == architecture)
        raise ConfigError(
            f"clip {model!r}: not a folder, and open_clip has no hub weights by that name; give a folder or ARCHITECTURE/TAG"
            + (f" with one of {known}" if known else "")
        )
    return architecture, str(pretrained["hf_hub"]).rstrip("/"), revision


def _from_hub(model: str) -> tuple[dict[str, dict[str, Any]], Path]:
    """The config, and the file of the weights, fetched from the hub."""
    config, weights = _fetched(model, (CONFIG_FILE, WEIGHTS_FILE))
    return _config(config), weights


def _fetched(model: str, files: Sequence[str]) -> list[Path]:
    """Files of the hub's repository, in its cache."""
    _, repository, revision = _hub_config(model)
    return hub.fetched(repository, revision, files, f"clip {model!r}: cannot fetch {', '.join(files)} of {repository}")
