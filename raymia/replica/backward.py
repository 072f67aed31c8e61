"""Backward passes that hold no gradient longer than it takes to look at it, and few activations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

GIB = 2**30
TOGETHER_GIB = 4
"""What the gradients of samples in one pass may take; beyond it each sample has a pass of its own, which keeps none."""

Take = Callable[[str, Tensor], None]
"""Is given the name of a parameter and its gradient, in the parameter's dtype, which is gone afterwards."""


def bytes_together(parameters: Iterable[Tensor], samples: int) -> int:
    """Bytes of as many samples' gradients by all parameters: of a pass, in the parameters' dtype, and of a mean, in float32."""
    return samples * sum(tensor.numel() * (tensor.element_size() + torch.float32.itemsize) for tensor in parameters)


def pays_together(parameters: Iterable[Tensor], samples: int) -> bool:
    """Whether gradients of as many samples are taken in one pass, because the model is small enough."""
    return bytes_together(parameters, samples) <= TOGETHER_GIB * GIB


@contextmanager
def each_gradient(parameters: Mapping[str, Tensor], take: Take) -> Iterator[None]:
    """Within this block one backward pass gives each parameter's gradient to `take` as soon as it is complete, and drops it.

    A parameter that the model uses several times is given once, with the sum: autograd adds up all its uses before it
    accumulates. One that the model does not use is not given.

    Args:
        parameters: by name, themselves what the model computes with; none requires a gradient outside of the block.
        take: is given each gradient.

    Raises:
        RuntimeError: a parameter was given twice, by a second backward pass, or none at all, because the model computes with
            others.
    """
    taken: set[str] = set()

    def hook(name: str) -> Callable[[Tensor], None]:
        def given(parameter: Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            if name in taken:
                raise RuntimeError(f"{name} was given a gradient twice; one backward pass was expected")
            taken.add(name)
            assert gradient is not None
            take(name, gradient)

        return given

    handles = []
    try:
        for name, parameter in parameters.items():
            leaf: Any = parameter.requires_grad_(True)
            handles.append(leaf.register_post_accumulate_grad_hook(hook(name)))
        yield
        if not taken:
            raise RuntimeError("no parameter was given a gradient; a replica's `parameters` are not what it predicts with")
    finally:
        for handle in handles:
            handle.remove()
        for parameter in parameters.values():
            parameter.requires_grad_(False)
            parameter.grad = None


@contextmanager
def recomputed(denoiser: nn.Module, within: Callable[[], AbstractContextManager[Any]] = nullcontext) -> Iterator[None]:
    """Within this block a forward keeps what goes into each block of a denoiser, and its backward pass computes the rest anew.

    Blocks are called as they are always called. (diffusers' own gradient checkpointing calls them in lines of their own, and
    those of Chroma's single blocks leave the mask out.)

    Args:
        denoiser: whose blocks stand in lists.
        within: makes a block that what is computed anew is computed within.
    """
    # One that stands in several places is one.
    blocks = list(dict.fromkeys(_blocks(denoiser)))
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=lambda: (nullcontext(), within()))
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The blocks that a denoiser is a row of: what stands in lists, within what stands in lists."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            for block in child:
                yield from _blocks(block) if _in_rows(block) else (block,)
        elif _in_rows(child):
            yield from _blocks(child)


def _in_rows(module: nn.Module) -> bool:
    """Whether a module is itself made of lists of blocks, and not of lists of single layers."""
    return any(isinstance(child, nn.ModuleList) and any(list(one.children()) for one in child) for child in module.children())
