"""A denoiser over several GPUs: which of its blocks goes on which, and its hooks, which are accelerate's as in diffusers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate import dispatch_model
from torch import nn

from raymia.errors import ConfigError
from raymia.replica.parts import class_of, name_of

DENOISERS = ("unet", "transformer")
"""Names of the parts that denoise."""


def require_spreadable(declared: Mapping[str, str]) -> None:
    """Refuse a model whose denoiser's class does not say which of its modules stay whole.

    Args:
        declared: class of each part of a pipeline, as ``library.Class``.

    Raises:
        ConfigError: names the field of `pool`.
    """
    for path in (declared[part] for part in DENOISERS if part in declared):
        if not class_of(path)._no_split_modules:
            raise ConfigError(f"pool.gpus_per_replica: a {name_of(path)} cannot be spread over GPUs; set it to 1")


def free_memory(gpus: int) -> list[int]:
    """Bytes that are free on each of the first GPUs.

    Raises:
        ConfigError: there are fewer.
    """
    if torch.cuda.device_count() < gpus:
        raise ConfigError(f"pool.gpus_per_replica: {gpus} GPUs are asked for, and this process sees {torch.cuda.device_count()}")
    return [torch.cuda.mem_get_info(gpu)[0] for gpu in range(gpus)]


def spread(denoiser: Any, free: Sequence[int]) -> nn.Module:
    """Bring a denoiser from the CPU onto several GPUs, block after block; inputs and outputs stay on the first.

    Args:
        denoiser: of diffusers, whose class says which modules stay whole.
        free: bytes that are free on each GPU, from number 0.

    Raises:
        ConfigError: there is no room.
    """
    map_of = device_map(denoiser, frozenset(denoiser._no_split_modules), free)
    dispatched: nn.Module = dispatch_model(denoiser, map_of, main_device=0)
    return dispatched


def device_map(denoiser: nn.Module, whole: frozenset[str], free: Sequence[int]) -> dict[str, int]:
    """The GPU of each module, so that about the same room is left on each: blocks in order, all else on the first.

    Args:
        denoiser: whose blocks stand in the order in which they are called.
        whole: names of the classes that are not taken apart.
        free: bytes that are free on each GPU.

    Raises:
        ConfigError: there is no room.
    """
    units = list(_units(denoiser, whole))
    total = sum(size for _, size, _ in units)
    left = (sum(free) - total) / len(free)
    if left < 0:
        raise ConfigError(
            f"pool.gpus_per_replica: the denoiser's {total / 2**30:.1f} GiB do not fit {len(free)} GPUs with "
            f"{sum(free) / 2**30:.1f} GiB free; give it more"
        )
    shares = [max(0.0, one - left) for one in free]
    # What the blocks are given is made of, or mixed with, what all else gives.
    placed = {name: 0 for name, _, block in units if not block}
    gpu, used = 0, float(sum(size for _, size, block in units if not block))
    for name, size in ((name, size) for name, size, block in units if block):
        # Half of what does not fit a share as a whole may hang over.
        while gpu < len(shares) - 1 and used + size / 2 > shares[gpu]:
            gpu, used = gpu + 1, used - shares[gpu]
        placed[name] = gpu
        used += size
    return placed


def _units(module: nn.Module, whole: frozenset[str], name: str = "") -> Iterator[tuple[str, int, bool]]:
    """Modules that are not taken apart and parameters beside them, by name, each with its bytes, and whether it is a block."""
    within = any(type(one).__name__ in whole for one in module.modules() if one is not module)
    tensors = [*module.named_parameters(), *module.named_buffers()]
    block = type(module).__name__ in whole
    if name and (block or not within):
        yield name, sum(tensor.nbytes for _, tensor in tensors), block
        return
    prefix = f"{name}." if name else ""
    yield from ((prefix + one, tensor.nbytes, False) for one, tensor in tensors if "." not in one)
    for one, child in module.named_children():
        yield from _units(child, whole, prefix + one)
