"""The parts of a pipeline folder: of which class each is, and its loading by the library that has the class, from safetensors.

What was loaded is held against the files: no tensor may be missing, left over, of another shape, or not finite.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raymia.errors import ConfigError, first_line
from raymia.replica.weight_files import WeightFiles, weight_files

STEMS = {"transformers": "model"}
"""Stem of the weight files by library, where it is not diffusers'."""
IDLE = {
    "text_projection.weight": ("CLIPTextModel", "projects the pooled vector, which the model does not have"),
    "logit_scale": ("CLIPTextModel", "compares texts with images"),
    "lm_head.weight": ("Qwen3Model", "writes texts, below whose states it does not stand"),
}
"""Tensors that a part's weights may hold beside its own, with the class that does not use them and why it need not."""
SHOWN = 400
"""Characters of what a library says about a failure."""


def library_of(path: str) -> str:
    """The library of a class given as ``library.Class``."""
    return path.rpartition(".")[0]


def name_of(path: str) -> str:
    """The name of a class given as ``library.Class``."""
    return path.rpartition(".")[2]


def stem_of(path: str) -> str:
    """The stem of the weight files that a class is loaded from."""
    return STEMS.get(library_of(path), "diffusion_pytorch_model")


def is_tokenizer(path: str) -> bool:
    """Whether a class is a tokenizer or a processor that has one, which have no weights."""
    return name_of(path).endswith("Tokenizer") or is_processor(path)


def is_processor(path: str) -> bool:
    """Whether a class has a tokenizer, and beside it what prepares images, which no score depends on."""
    return name_of(path).endswith("Processor")


def weight_stems(declared: Mapping[str, str]) -> dict[str, str]:
    """The parts that have weights, each with the stem of its safetensors files.

    Args:
        declared: class of each part, as ``library.Class``.
    """
    return {part: stem_of(path) for part, path in declared.items() if not is_tokenizer(path)}


def beside_weights(declared: Mapping[str, str]) -> tuple[str, ...]:
    """Patterns of the files beside weights and their configs that a model is loaded from; see `weight_stems`."""
    folders = ["scheduler", *(part for part, path in declared.items() if is_tokenizer(path))]
    return ("model_index.json", *(f"{folder}/*" for folder in folders))


def class_of(path: str) -> Any:
    """The class that is given as ``library.Class``; imports it.

    Raises:
        ConfigError: the installed library has none of that name.
    """
    try:
        return getattr(importlib.import_module(library_of(path)), name_of(path))
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{path}: cannot be imported ({first_line(error)}); install a version that has it") from error


class Parts:
    """The parts of one pipeline folder, each loaded when it is asked for.

    Attributes:
        folder: of the pipeline.
        declared: class of each part, as ``library.Class``, by its folder's name.
        loaded: what was loaded so far, by part.
    """

    def __init__(self, folder: Path, declared: Mapping[str, str]) -> None:
        """Take a folder that was checked; nothing is loaded yet."""
        self.folder = folder
        self.declared = declared
        self.loaded: dict[str, Any] = {}

    def weights(self, part: str) -> WeightFiles:
        """The files that a part is loaded from.

        Raises:
            ConfigError: see `raymia.replica.weight_files.weight_files`.
        """
        return weight_files(self.folder / part, stem_of(self.declared[part]))

    def model(self, part: str, dtype: torch.dtype) -> Any:
        """A part with weights, on the CPU, for evaluation alone: none of its parameters requires a gradient.

        Args:
            part: its folder's name.
            dtype: that its floating-point tensors are turned into.

        Raises:
            ConfigError: the weights do not fit the config, or hold what is not finite in that dtype; names the tensor.
        """
        path = self.declared[part]
        options: dict[str, Any] = {"use_safetensors": True, "variant": self.weights(part).variant}
        options["dtype" if library_of(path) == "transformers" else "torch_dtype"] = dtype
        model, info = self._load(part, output_loading_info=True, **options)
        place = self.folder / part
        require_complete(name_of(path), place, info["missing_keys"], info["unexpected_keys"], info["mismatched_keys"])
        require_finite(model, place)
        self.loaded[part] = model.eval().requires_grad_(False)
        return self.loaded[part]

    def tokenizer(self, part: str = "tokenizer") -> Any:
        """A tokenizer, or a processor that has one.

        Raises:
            ConfigError: it cannot be read.
        """
        self.loaded[part] = self._load(part)
        return self.loaded[part]

    def _load(self, part: str, **options: Any) -> Any:
        kind = class_of(self.declared[part])
        try:
            return kind.from_pretrained(self.folder / part, local_files_only=True, **options)
        except Exception as error:
            # Whatever a loader makes of somebody else's files, want of memory included.
            raise ConfigError(
                f"{self.folder / part}: cannot be loaded as a {kind.__name__}: {type(error).__name__}: {str(error)[:SHOWN]}"
            ) from error


def require_complete(
    kind: str, place: Path, missing: Collection[str], unexpected: Collection[str], mismatched: Collection[Any]
) -> None:
    """Refuse weights that are not those of their config.

    Args:
        kind: name of the part's class.
        place: the part's folder.
        missing, unexpected: names of tensors.
        mismatched: each with its name and both shapes, first the file's.

    Raises:
        ConfigError: names the tensor.
    """
    left_over = sorted(name for name in unexpected if IDLE.get(name, ("", ""))[0] != kind)
    advice = f"the config is of another model than the weights, or they are cut: download {place.name} again"
    if missing:
        raise ConfigError(f"{place}: the weights lack the tensor {_some(missing)}, which {kind} has by the config; {advice}")
    if left_over:
        raise ConfigError(
            f"{place}: the weights have the tensor {_some(left_over)}, which {kind} has not by the config; {advice}"
        )
    if mismatched:
        name, found, expected = sorted(mismatched)[0]
        raise ConfigError(
            f"{place}: the tensor {name} is {tuple(found)} in the weights and {tuple(expected)} by the config; {advice}"
        )


def _some(names: Collection[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{min(names)}{more}"


def require_finite(model: nn.Module, place: Path) -> None:
    """Refuse weights that hold what is no number, or more than their dtype can hold.

    Raises:
        ConfigError: names the tensor.
    """
    for name, tensor in model.state_dict(keep_vars=False).items():
        if not tensor.is_meta and tensor.is_floating_point() and tensor.numel() and not _finite(tensor):
            raise ConfigError(
                f"{place}: the tensor {name} is not finite in {str(tensor.dtype).removeprefix('torch.')}; "
                "the weights are damaged, or need a wider replica.dtype"
            )
        if tensor.is_meta:
            raise ConfigError(f"{place}: the tensor {name} was not loaded; download {place.name} again")


def _finite(tensor: torch.Tensor) -> bool:
    # One pass and no copy: what is no number goes through minimum and maximum.
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))
