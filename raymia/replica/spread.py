"""A denoiser over several GPUs: which of its blocks goes on which, and its hooks, which are accelerate's as in diffusers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from accelerate import dispatch_model
from torch import nn

from raymia.errors import ConfigError


def free_memory(gpus: int) -> list[int]:
    """Bytes that are free on each of the first GPUs.

    Raises:
        ConfigError: there are fewer.
    """
    seen = torch.cuda.device_count()
    if seen < gpus:
        raise ConfigError(f"pool.gpus_per_replica: {gpus} GPUs are asked for, and this process sees {seen}")
    return [torch.cuda.mem_get_info(gpu)[0] for gpu in range(gpus)]


def spread(denoiser: nn.Module, free: Sequence[int]) -> nn.Module:
    """Bring a denoiser from the CPU onto several GPUs, block after block; inputs and outputs stay on the first.

    Args:
        denoiser: whose blocks stand in lists, in the order in which they are called.
        free: bytes that are free on each GPU, from number 0.

    Raises:
        ConfigError: there is no room.
    """
    dispatched: nn.Module = dispatch_model(denoiser, device_map(denoiser, free), main_device=0)
    return dispatched


def device_map(denoiser: nn.Module, free: Sequence[int]) -> dict[str, int]:
    """The GPU of each module, so that about the same room is left on each: blocks in order, all else on the first.

    Args:
        denoiser: see `spread`.
        free: bytes that are free on each GPU.

    Raises:
        ConfigError: there is no room.
    """
    units = list(_units(denoiser))
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


def _units(denoiser: nn.Module) -> Iterator[tuple[str, int, bool]]:
    """Modules and parameters that are not taken apart, by name, each with its bytes, and whether it is a block."""
    yield from ((name, tensor.nbytes, False) for name, tensor in _tensors(denoiser) if "." not in name)
    for name, child in denoiser.named_children():
        blocks = child.named_children() if isinstance(child, nn.ModuleList) else ()
        yield from ((f"{name}.{place}", _size(block), True) for place, block in blocks)
        if not isinstance(child, nn.ModuleList):
            yield name, _size(child), False


def _tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _size(module: nn.Module) -> int:
    return sum(tensor.nbytes for _, tensor in _tensors(module))
