"""Weights of fewer bits than they were saved in: those of a denoiser's blocks, by torchao, as diffusers uses it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Literal

from torch import nn

from raymia.errors import ConfigError

Weights = Literal["as_saved", "int8", "float8"]
"""What a denoiser's weights are kept in, whatever it computes in."""
KINDS = {"int8": "Int8WeightOnlyConfig", "float8": "Float8WeightOnlyConfig"}
"""torchao's names."""
ROW_BYTES = 5
"""Beside a byte for each weight, for each row of them: its scale, and its zero in int8."""


def require_quantisable(weights: Weights) -> None:
    """Refuse weights that nothing installed can make.

    Raises:
        ConfigError: says what to install.
    """
    if weights != "as_saved" and find_spec("torchao") is None:
        raise ConfigError(f"replica.weights: {weights} needs torchao: pip install 'raymia[quantised]'")


def quantise(denoiser: nn.Module, weights: Weights) -> None:
    """Round the weights of all linear layers within a denoiser's blocks, in place; biases and all else stay as they are.

    Args:
        denoiser: whose blocks stand in lists.
        weights: one of those that take a byte each.

    Raises:
        ConfigError: torchao is not installed.
    """
    require_quantisable(weights)
    library: Any = importlib.import_module("torchao.quantization")
    names = {name for name, _ in _layers(denoiser)}
    library.quantize_(denoiser, getattr(library, KINDS[weights])(), lambda _, name: name in names)


def saved_bytes(denoiser: nn.Module) -> int:
    """Bytes by which a denoiser that is not quantised would be smaller, in int8 at least."""
    weights = [layer.weight for _, layer in _layers(denoiser)]
    return sum(weight.nbytes - weight.numel() - ROW_BYTES * len(weight) for weight in weights)


def _layers(denoiser: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    blocks = [name for name, child in denoiser.named_children() if isinstance(child, nn.ModuleList)]
    for name, module in denoiser.named_modules():
        if isinstance(module, nn.Linear) and name.partition(".")[0] in blocks:
            yield name, module
