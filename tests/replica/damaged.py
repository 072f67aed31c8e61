"""Pipeline folders with something wrong in them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


def copied(folder: Path, target: Path) -> Path:
    """A copy of a pipeline, to be damaged."""
    return Path(shutil.copytree(folder, target))


def change(file: Path, **fields: object) -> Path:
    """Set fields of a JSON file; return the file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    return file


def drop(file: Path, *fields: str) -> Path:
    """Remove fields of a JSON file; return the file."""
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key not in fields}))
    return file


def rewrite(file: Path, edit: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    """Write a safetensors file anew, with its tensors edited; return the file."""
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    save_file({name: tensor.contiguous() for name, tensor in edit(tensors).items()}, file, metadata={"format": "pt"})
    return file


def without(*names: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """An edit that removes tensors whose names begin so."""
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if not name.startswith(names)}


def prefixed(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """An edit that puts a prefix before every name."""
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}
