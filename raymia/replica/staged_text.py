"""What a model is told under prompts, kept as files: written where its text encoders are, read where its denoiser is.

Files hold tensors alone, one file for each prompt by its hash. One more holds what the encoders give to diffusers' own
pipeline, against which a replica that has no text encoders is held when it loads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from raymia.errors import ConfigError, RaymiaError, first_line
from raymia.replica.conditioning import Conditioning, UntellableError
from raymia.replica.device import onto

ENDING = ".safetensors"
OWN = f"own_pipeline{ENDING}"
SHAPE = "shape"
"""Field of the file's header that says how the tensors of diffusers' own pipeline hang together."""
MAX_BYTES = 2**28
"""Of a file: more than any prompt's states."""


@runtime_checkable
class Files(Protocol):
    """A folder, wherever it is."""

    def read(self, name: str, limit: int | None = None) -> bytes | None:
        """A file's contents, of no more bytes than `limit`; none where there is no such file."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        ...

    def names(self, folder: str, ending: str) -> list[str]:
        """Names of the files below a folder."""
        ...


class StagedText:
    """Prompts of one model in one dtype."""

    def __init__(self, files: Files) -> None:
        """Take a folder of these prompts alone."""
        self._files = files

    @cached_property
    def _kept(self) -> set[str]:
        """Names of the files that are there, as far as this process knows."""
        return set(self._files.names("", ENDING))

    def lacking(self, prompts: Sequence[str]) -> list[str]:
        """The prompts that are not kept, each once."""
        return [prompt for prompt in dict.fromkeys(prompts) if _name(prompt) not in self._kept]

    def keep(self, prompts: Sequence[str], told: Conditioning) -> None:
        """Keep what the model is told under each prompt, row by row."""
        for row, prompt in enumerate(prompts):
            tensors = {name: tensor[row : row + 1].contiguous().cpu() for name, tensor in told.tensors().items()}
            self._files.write(_name(prompt), save(tensors))
            self._kept.add(_name(prompt))

    def told(self, prompts: Sequence[str], device: torch.device) -> Conditioning:
        """What the model is told under each prompt.

        Raises:
            UntellableError: a prompt is not kept.
            RaymiaError: a file is damaged.
        """
        told = Conditioning.cat([self._one(prompt) for prompt in prompts])
        return Conditioning(**{name: onto(device, tensor) for name, tensor in told.tensors().items()})

    def _one(self, prompt: str) -> Conditioning:
        content = self._files.read(_name(prompt), MAX_BYTES)
        if content is None:
            raise UntellableError(
                "text_not_encoded", "its shard could not be read when the texts were encoded; run the same command again"
            )
        try:
            told = Conditioning(**load(content))
            if any(len(tensor) != 1 for tensor in told.tensors().values()) or not len(told):
                raise ValueError("it is not of one prompt")
        except (SafetensorError, TypeError, ValueError) as error:
            raise RaymiaError(f"{_name(prompt)}: no states of a prompt ({first_line(error)}); delete it") from error
        return told

    def keep_own(self, calls: Sequence[Any]) -> None:
        """Keep what the text encoders gave to diffusers' own pipeline: the results of each of its calls."""
        tensors: list[Tensor] = []
        shape = [_taken_apart(call, tensors) for call in calls]
        named = {str(place): tensor.cpu().clone(memory_format=torch.contiguous_format) for place, tensor in enumerate(tensors)}
        self._files.write(OWN, save(named, {SHAPE: json.dumps(shape)}))

    def own(self, device: torch.device) -> list[Any]:
        """See `keep_own`.

        Raises:
            ConfigError: there is none.
            RaymiaError: the file is damaged.
        """
        content = self._files.read(OWN, MAX_BYTES)
        if content is None:
            raise ConfigError("replica.text: stage encodes texts before a scan, and nothing was encoded here; use offload")
        try:
            length = int.from_bytes(content[:8], "little")
            shape = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][SHAPE])
            tensors = load(content)
            return [_put_together(call, tensors, device) for call in shape]
        except (SafetensorError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise RaymiaError(f"{OWN}: damaged ({first_line(error)}); delete it") from error


def _name(prompt: str) -> str:
    return hashlib.sha256(prompt.encode(errors="surrogatepass")).hexdigest() + ENDING


def _taken_apart(result: Any, tensors: list[Tensor]) -> Any:
    """A result of tensors, lists of such, and nothing, with numbers in the place of tensors."""
    if isinstance(result, Tensor):
        tensors.append(result)
        return len(tensors) - 1
    if result is None:
        return None
    if isinstance(result, list | tuple):
        return [_taken_apart(one, tensors) for one in result]
    raise TypeError(f"a text encoder gave a {type(result).__name__}; expected tensors")


def _put_together(shape: Any, tensors: dict[str, Tensor], device: torch.device) -> Any:
    if isinstance(shape, list):
        return [_put_together(one, tensors, device) for one in shape]
    return None if shape is None else tensors[str(shape)].to(device)
