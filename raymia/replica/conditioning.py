"""What a model is told about each image beside its latents and their noise level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from raymia.replica.device import onto

CPU = torch.device("cpu")

Rows = slice | Tensor
"""Which images: a slice, or their numbers."""


class UntellableError(ValueError):
    """A caption that a model cannot be told, such as one that names no class. The sample is at fault, and no other.

    Attributes:
        reason: a word, by which such samples are counted.
        detail: a sentence.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Say why, in a word and in a sentence."""
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, eq=False)
class Conditioning:
    """A bundle of tensors with a row for each image. Attacks treat it as opaque; a family fills what its denoiser takes.

    Attributes:
        states: hidden states of the text encoders.
        mask: which tokens of the states count; none where all do.
        pooled: of the text encoders, one vector for each image.
        ids: further numbers for each image, such as SDXL's sizes.
        labels: class of each image, of class-conditional models.
    """

    states: Float[Tensor, "batch tokens width"] | None = None
    mask: Shaped[Tensor, "batch tokens"] | None = None
    pooled: Float[Tensor, "batch pooled_width"] | None = None
    ids: Float[Tensor, "batch numbers"] | None = None
    labels: Shaped[Tensor, " batch"] | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Those that there are, by name: what `Conditioning(**tensors)` takes."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def __len__(self) -> int:
        return max((len(tensor) for tensor in self.tensors().values()), default=0)

    def __getitem__(self, rows: Rows) -> Conditioning:
        return Conditioning(**{name: tensor[rows] for name, tensor in self.tensors().items()})

    def split(self, size: int) -> list[Conditioning]:
        """In parts of at most `size` images."""
        return [self[start : start + size] for start in range(0, len(self), size)]

    def expand(self, count: int) -> Conditioning:
        """The same for `count` images, of a bundle for one."""
        return Conditioning(**{name: tensor.expand(count, *tensor.shape[1:]) for name, tensor in self.tensors().items()})

    def to(self, dtype: torch.dtype) -> Conditioning:
        """With floating-point tensors in another dtype."""
        return Conditioning(
            **{name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in self.tensors().items()}
        )

    def shifted(self, noise: Float[Tensor, "batch tokens width"], scale: float) -> Conditioning:
        """With noise of a scale added to the states, in their dtype.

        Raises:
            ValueError: the model is told no text.
        """
        if self.states is None:
            raise ValueError("the model is told no text, so that there are no states to shift")
        return replace(self, states=self.states + scale * noise.to(self.states.dtype))

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """Bundles of the same kind, one below the other."""
        named = [part.tensors() for part in parts]
        return Conditioning(**{name: torch.cat([tensors[name] for tensors in named]) for name in named[0]})


def tokens_of(tokenizer: Any, prompts: Sequence[str], length: int | None = None, device: torch.device = CPU) -> Any:
    """``input_ids`` and ``attention_mask``, (batch, tokens) each, of prompts padded and cut to a length.

    Args:
        tokenizer: of transformers.
        prompts: one for each row.
        length: in tokens; none for the tokenizer's own.
        device: where they are to be.
    """
    longest = tokenizer.model_max_length if length is None else length
    tokens = tokenizer(list(prompts), padding="max_length", truncation=True, max_length=longest, return_tensors="pt")
    return tokens_onto(device, tokens)


def token_ids(tokenizer: Any, prompts: Sequence[str], length: int | None = None, device: torch.device = CPU) -> Tensor:
    """(batch, tokens) of the prompts; see `tokens_of`."""
    ids: Tensor = tokens_of(tokenizer, prompts, length, device).input_ids
    return ids


def tokens_onto(device: torch.device, tokens: Any) -> Any:
    """What a tokenizer of transformers gave, on a device."""
    for name in tuple(tokens):
        tokens[name] = onto(device, tokens[name])
    return tokens
