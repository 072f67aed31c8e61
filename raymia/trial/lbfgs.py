"""L-BFGS over a batch in which every sample has its own history, step length and end."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

TOLERANCE_GRADIENT = 1e-7
TOLERANCE_CHANGE = 1e-9
MIN_CURVATURE = 1e-10


def minimise(
    evaluate: Callable[[Tensor], tuple[Float[Tensor, " batch"], Float[Tensor, "batch ..."]]],
    start: Float[Tensor, "batch ..."],
    steps: int,
) -> Float[Tensor, "batch ..."]:
    """Make `steps` L-BFGS steps on every sample, as ``torch.optim.LBFGS`` without line search makes on one.

    A shared optimiser would take one step length and one history from the sum of all losses, so that a sample's result
    depended on its neighbours in the batch. Here all products are per sample, and a sample whose gradient or change has
    vanished stays where it is.

    Args:
        evaluate: losses and gradients at a point; called `steps` times, always with the whole batch.
        start: where to begin.

    Source: Nocedal and Wright, Numerical Optimization, algorithm 7.4; tolerances of torch.optim.LBFGS.
    """
    x = start.flatten(1)
    history: list[tuple[Tensor, Tensor, Tensor]] = []  # step, change of the gradient, whether the sample uses the pair
    scale = torch.ones_like(x[:, :1])
    running = torch.ones_like(x[:, :1], dtype=torch.bool)
    previous: tuple[Tensor, Tensor, Tensor] | None = None  # loss, gradient, step
    for _ in range(steps):
        losses, gradients = evaluate(x.view_as(start))
        loss, gradient = losses[:, None], gradients.flatten(1)
        running &= gradient.abs().amax(1, keepdim=True) > TOLERANCE_GRADIENT
        if previous is None:
            direction = -gradient
            length = (1.0 / gradient.abs().sum(1, keepdim=True)).clamp(max=1.0)
        else:
            running &= (loss - previous[0]).abs() >= TOLERANCE_CHANGE
            change, moved = gradient - previous[1], previous[2]
            curved = _dot(change, moved) > MIN_CURVATURE
            history.append((moved, change, curved))
            scale = torch.where(curved, _dot(change, moved) / _dot(change, change), scale)
            direction = _direction(gradient, history, scale)
            length = torch.ones_like(loss)
        running &= _dot(gradient, direction) <= -TOLERANCE_CHANGE
        move = torch.where(running, length * direction, 0.0)
        running &= move.abs().amax(1, keepdim=True) > TOLERANCE_CHANGE
        x = x + move
        previous = (loss, gradient, move)
    return x.view_as(start)


def _direction(gradient: Tensor, history: list[tuple[Tensor, Tensor, Tensor]], scale: Tensor) -> Tensor:
    direction = -gradient
    weights = []
    for moved, change, curved in reversed(history):
        weight = torch.where(curved, _dot(moved, direction) / _dot(change, moved), 0.0)
        direction = direction - weight * change
        weights.append(weight)
    direction = direction * scale
    for (moved, change, curved), weight in zip(history, reversed(weights), strict=True):
        correction = torch.where(curved, weight - _dot(change, direction) / _dot(change, moved), 0.0)
        direction = direction + correction * moved
    return direction


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(1, keepdim=True)
