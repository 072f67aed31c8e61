"""Gradients of each sample's loss: of several samples in one batched pass, or of one sample by parameter after parameter."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import grad, vmap

from raymia.replica.backward import Take, each_gradient
from raymia.replica.conditioning import Conditioning
from raymia.replica.protocol import Recomputes, Replica


def parameter_gradients(
    replica: Replica,
    z_t: Float[Tensor, "batch c h w"],
    t: int,
    conditioning: Conditioning,
    noise: Float[Tensor, "batch c h w"],
) -> tuple[dict[str, Tensor], Float[Tensor, "batch c h w"]]:
    """Gradients of each sample's summed squared error ||noise - E(z_t, t, conditioning)||^2.

    The sum and not the mean: in half precision the mean's gradients underflow. Divide by the number of elements in
    float32. Memory grows by the size of the denoiser with every sample: give a part of a batch.

    Returns:
        By parameter name (batch, *shape of the parameter), in the parameter's dtype; and (batch, c, h, w) by `z_t`.
    """

    def error(parameters: dict[str, Tensor], z: Tensor, given: dict[str, Tensor], e: Tensor) -> Tensor:
        alone = Conditioning(**{name: tensor[None] for name, tensor in given.items()})
        predicted = replica.predicted_noise_with(parameters, z[None], t, alone)
        return (e - predicted[0]).square().sum()

    gradient = grad(error, argnums=(0, 1))
    if replica.batches_gradients:
        by_sample = vmap(gradient, in_dims=(None, 0, 0, 0))
        return by_sample(replica.parameters(), z_t, conditioning.tensors(), noise)  # type: ignore[no-any-return]
    each = [
        gradient(replica.parameters(), z_t[i], {name: tensor[i] for name, tensor in conditioning.tensors().items()}, noise[i])
        for i in range(len(z_t))
    ]
    by_parameter = {name: torch.stack([parameters[name] for parameters, _ in each]) for name in each[0][0]}
    return by_parameter, torch.stack([by_latent for _, by_latent in each])


def streamed_gradients(
    replica: Replica,
    z_t: Float[Tensor, "items c h w"],
    t: Int[Tensor, " items"],
    conditioning: Conditioning,
    noise: Float[Tensor, "items c h w"],
    weights: Float[Tensor, " items"],
    take: Take,
) -> Float[Tensor, "items c h w"]:
    """The gradient of sum_i weights_i ||noise_i - E(z_t_i, t_i, conditioning_i)||^2, in one backward pass.

    No gradient by a parameter outlives its turn, so that memory is that of the activations and of one layer; where the replica
    can, the activations are those between its blocks alone. Sums and not means, as in `parameter_gradients`: give weights of
    which the largest is 1, and divide what you are given in float32.

    Args:
        replica: small or large.
        z_t, t, conditioning, noise: evaluations of one sample.
        weights: of their errors.
        take: is given the gradient by each parameter, with its name.

    Returns:
        The gradient by `z_t`.
    """
    z = z_t.detach().requires_grad_(True)
    economy = replica.recomputing() if isinstance(replica, Recomputes) else nullcontext()
    with torch.enable_grad(), economy, each_gradient(replica.parameters(), take):
        errors = (noise - replica.predicted_noise(z, t, conditioning)).square().flatten(1).sum(1)
        (weights * errors).sum().backward()  # type: ignore[no-untyped-call]
    assert z.grad is not None
    return z.grad


def latent_gradients(
    replica: Replica,
    z_t: Float[Tensor, "batch c h w"],
    t: int,
    conditioning: Conditioning,
    noise: Float[Tensor, "batch c h w"],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch c h w"]]:
    """Each sample's mean squared error of the predicted noise, and its gradient with respect to `z_t`.

    No layer of the denoiser mixes samples, so that one backward pass of the sum gives every sample its own gradient.
    """
    with torch.enable_grad():
        z = z_t.detach().requires_grad_(True)
        error = (noise - replica.predicted_noise(z, t, conditioning)).square().flatten(1)
        (summed,) = torch.autograd.grad(error.sum(), z)
    return error.detach().mean(1), summed / error.shape[1]
