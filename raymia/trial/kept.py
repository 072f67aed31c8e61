"""Results kept for as long as the tensor lives that they were computed from."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

T = TypeVar("T")


class Kept:
    """A memo by the identity of tensors: an equal but other tensor is not the same."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._kept = WeakIdKeyDictionary()

    def of(self, tensor: Tensor) -> dict[Hashable, Any]:
        """What is kept of a tensor, by key; to be read and added to."""
        kept: dict[Hashable, Any] = self._kept.setdefault(tensor, {})  # type: ignore[no-untyped-call]
        return kept

    def once(self, tensor: Tensor, key: Hashable, compute: Callable[[], T]) -> T:
        """What `compute` returns, computed once per `tensor` and `key`."""
        kept = self.of(tensor)
        if key not in kept:
            kept[key] = compute()
        result: T = kept[key]
        return result
