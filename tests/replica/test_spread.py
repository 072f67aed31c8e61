"""A denoiser over several GPUs, on tensors that have a device and no numbers: mixing devices raises."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import accelerate.hooks
import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode

from raymia.errors import ConfigError
from raymia.replica.conditioning import Conditioning
from raymia.replica.families import FAMILIES
from raymia.replica.folder import find_pipeline
from raymia.replica.spread import device_map, spread
from tests.replica.test_every_family import cases, loaded

WHOLE = ("FluxTransformerBlock", "FluxSingleTransformerBlock")
FIRST = torch.device("cuda", 0)


class _NoPadding(TorchFunctionMode):
    """Without numbers, no mask tells how many tokens count: all do."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masked = func is torch.Tensor.__getitem__ and isinstance(args[1], torch.Tensor) and args[1].dtype == torch.bool
        return args[0] if masked else func(*args, **(kwargs or {}))


def _move(module: nn.Module, name: str, device: Any, *_: Any, **__: Any) -> None:
    """What accelerate does, of a tensor that has no memory to be known by."""
    *path, leaf = name.split(".")
    owner = module.get_submodule(".".join(path))
    table: dict[str, Any] = owner._parameters if leaf in owner._parameters else owner._buffers
    place = torch.device("cuda", device) if isinstance(device, int) else device
    moved = table[leaf].to(place)
    table[leaf] = nn.Parameter(moved, requires_grad=False) if table is owner._parameters else moved


def _hollow(module: nn.Module) -> nn.Module:
    for one in module.modules():
        for table in (one._parameters, one._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
                    table[name] = nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
    return module


@pytest.mark.parametrize("name", FAMILIES.names())
def test_every_family_computes_over_several_gpus_and_mixes_none(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = cases()[name]
    replica = loaded(find_pipeline(str(case.save(tmp_path / "p")), with_weights=True), case)
    told, shape = replica.text(["1", "2"]), replica.latent_shape(case.side_px, case.side_px)
    denoiser = replica._denoiser
    room = sum(tensor.nbytes for tensor in (*denoiser.parameters(), *denoiser.buffers()))
    monkeypatch.setattr(accelerate.hooks, "set_module_tensor_to_device", _move)
    for gpus in (2, 5):
        copied = copy.deepcopy(denoiser)
        with FakeTensorMode(allow_non_fake_inputs=True), _NoPadding():
            over_all = spread(_hollow(copied), [room] * gpus)
            places = {tensor.device for tensor in over_all.parameters()}
            assert FIRST in places
            assert len(places) > 1
            z = torch.empty(2, *shape, device=FIRST)
            given = {field: torch.empty_like(tensor, device=FIRST) for field, tensor in told.tensors().items()}
            output = replica._output(over_all, z, torch.empty((), device=FIRST), Conditioning(**given))
        assert output.device == FIRST
        assert output.shape == z.shape


def test_blocks_go_in_order_to_where_the_same_room_is_left() -> None:
    with torch.device("meta"):
        flux = FluxTransformer2DModel(num_layers=8, num_single_layers=8)
    sizes = {name: sum(p.nbytes for p in flux.get_submodule(name).parameters()) for name in device_map(flux, [10**12])}
    total = sum(sizes.values())
    assert total == sum(parameter.nbytes for parameter in flux.parameters())
    for free in ([total, total], [total, 2 * total, total], [total // 2, total // 2, total // 2]):
        placed = device_map(flux, free)
        assert placed.keys() == sizes.keys()
        blocks = [gpu for name, gpu in placed.items() if type(flux.get_submodule(name)).__name__ in WHOLE]
        assert blocks == sorted(blocks)
        assert not any(gpu for name, gpu in placed.items() if type(flux.get_submodule(name)).__name__ not in WHOLE)
        left = [room - sum(sizes[name] for name, gpu in placed.items() if gpu == number) for number, room in enumerate(free)]
        assert max(left) - min(left) <= 2 * max(sizes.values())
    with pytest.raises(ConfigError, match=r"do not fit 2 GPUs with .* GiB free"):
        device_map(flux, [total // 3, total // 3])
