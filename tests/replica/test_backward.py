"""Backward passes that keep no gradients and few activations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raymia.replica.backward import bytes_together, each_gradient, pays_together, recomputed


class Reusing(nn.Module):
    """Two of its blocks are one, a weight stands in two places, and one is not used at all."""

    def __init__(self) -> None:
        super().__init__()
        shared = Block()
        self.blocks = nn.ModuleList([shared, Block(), shared])
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.blocks[1].inner.weight
        self.unused = nn.Parameter(torch.ones(3))
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, scale=0.5)
        return self.tied(x)


class Block(nn.Module):
    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor, scale: float) -> Tensor:
        Block.calls += 1
        return x + scale * self.inner(x).tanh()


@pytest.mark.parametrize("economical", [False, True])
def test_a_parameter_used_several_times_is_given_once_with_the_sum(economical: bool) -> None:
    torch.manual_seed(0)
    model, x = Reusing(), torch.randn(5, 4)
    parameters = dict(model.named_parameters())
    given: dict[str, Tensor] = {}

    def take(name: str, gradient: Tensor) -> None:
        assert name not in given
        assert all(parameter.grad is None for parameter in parameters.values()), "none but this one is held"
        given[name] = gradient.clone()

    Block.calls = 0
    with each_gradient(parameters, take):
        if economical:
            with recomputed(model):
                loss = model(x).square().sum()
        else:
            loss = model(x).square().sum()
        loss.backward()
    assert Block.calls == (6 if economical else 3)
    assert not any("forward" in vars(block) for block in model.blocks)
    assert not any(parameter.requires_grad for parameter in parameters.values())
    model.requires_grad_(True)
    model(x).square().sum().backward()
    assert set(given) == {"blocks.0.inner.weight", "blocks.1.inner.weight"}
    for name, gradient in given.items():
        assert torch.allclose(gradient, parameters[name].grad, rtol=1e-6), name
    assert parameters["unused"].grad is None


def test_a_second_pass_and_one_that_reaches_no_parameter_are_errors() -> None:
    model, x = Reusing(), torch.randn(2, 4)
    parameters = dict(model.named_parameters())

    def passes(count: int) -> None:
        with each_gradient(parameters, lambda *_: None):
            for _ in range(count):
                model(x).sum().backward()

    with pytest.raises(RuntimeError, match=r"inner.weight was given a gradient twice"):
        passes(2)
    assert not any(parameter.requires_grad for parameter in parameters.values())
    with pytest.raises(RuntimeError, match="no parameter was given"):
        passes(0)
    passes(1)


def test_how_many_samples_go_together_depends_on_the_models_size_and_dtype() -> None:
    million = [torch.empty(1000, 1000, dtype=dtype, device="meta") for dtype in (torch.float32, torch.bfloat16)]
    assert bytes_together(million[:1], 16) == 16 * 8_000_000
    assert bytes_together(million[1:], 2) == 2 * 6_000_000
    stable_diffusion = [torch.empty(860, 1000, 1000, device="meta")]
    assert pays_together(million, 16)
    assert not pays_together(stable_diffusion, 1)
