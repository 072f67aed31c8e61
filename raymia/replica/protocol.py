"""What attacks ask of a model, whatever its family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raymia.replica.conditioning import Conditioning
from raymia.replica.schedule import Schedule


@runtime_checkable
class Replica(Protocol):
    """One model on one device. Latents are float32 whatever the model computes in; t is a timestep as jobs name it.

    Attributes:
        denoiser_batch: images that a call of the denoiser takes best: several evaluations are made in one call up to that,
            larger ones in parts.
        groups: of the denoiser's parameters, see `parameter_group`.
        batches_gradients: whether `predicted_noise_with` is made of operations that torch.func can batch; if not, gradients of
            each sample are taken one after the other.
    """

    schedule: Schedule
    device: torch.device
    denoiser_batch: int
    groups: tuple[str, ...]
    batches_gradients: bool

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of an image of that size in px."""
        ...

    def encode(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch c h w"]:
        """Scaled mean of the autoencoder's posterior for images in [-1, 1]."""
        ...

    def text(self, prompts: Sequence[str]) -> Conditioning:
        """What the model is told under each prompt; the empty prompt is the unconditional one."""
        ...

    def predicted_noise(
        self, z_t: Float[Tensor, "batch c h w"], t: int | Int[Tensor, " batch"], conditioning: Conditioning
    ) -> Float[Tensor, "batch c h w"]:
        """Noise that the model sees in `z_t` at `t`, or each image's own, without guidance; differentiable in `z_t`."""
        ...

    def in_float32(self) -> Replica:
        """The same model, with a denoiser that computes in float32; itself, where it does already."""
        ...

    def parameters(self) -> dict[str, Tensor]:
        """The denoiser's parameters by name, themselves what it predicts with; none of them requires a gradient."""
        ...

    def parameter_group(self, name: str) -> str | None:
        """The part of the denoiser and the kind of layer that a parameter belongs to; see `raymia.replica.parameter_groups`."""
        ...

    def predicted_noise_with(
        self, parameters: Mapping[str, Tensor], z_t: Float[Tensor, "batch c h w"], t: int, conditioning: Conditioning
    ) -> Float[Tensor, "batch c h w"]:
        """Predicted noise with other parameters; differentiable in all."""
        ...

    def decode(self, z0: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 3 H W"]:
        """Images in [-1, 1] for clean latents."""
        ...


@runtime_checkable
class Recomputes(Protocol):
    """A replica whose backward passes can do with less memory."""

    def recomputing(self) -> AbstractContextManager[None]:
        """Within this block a forward keeps what goes into each block of the denoiser, and its backward computes the rest anew.

        The numbers are the same; a backward pass takes one forward more.
        """
        ...
