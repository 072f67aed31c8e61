"""What a service offers: images from images, and images from text; all that a black-box attack may ask for."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from raymia.registry import Registry
from raymia.replica.conditioning import Conditioning
from raymia.replica.schedule import Schedule

Capability = Literal["image_to_image", "text_to_image", "strength", "steps", "guidance", "seed"]
"""What can be asked of a service: kinds of images, and what can be said about how they are made."""


class ServiceError(Exception):
    """A service did not make an image: the sample becomes a row with this reason, and the scan goes on.

    Attributes:
        reason: a short fixed word, such as ``refused_by_service`` or ``service_failed``.
        detail: what was answered, for a person, without secrets.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Say why."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@runtime_checkable
class BlackBox(Protocol):
    """An open service. Images are in [-1, 1], seeds one per image; answers come in the order and on the device of the question.

    Both methods raise `ServiceError`, with what the server said, where an image is not made: its sample is quarantined.
    """

    def image_to_image(
        self,
        images: Float[Tensor, "batch 3 H W"],
        prompts: Sequence[str],
        strength: float,
        steps: int,
        guidance: float,
        seeds: Sequence[int],
    ) -> Float[Tensor, "batch 3 H W"]:
        """Noise the images and denoise them again.

        Args:
            images: to begin with.
            prompts: one per image.
            strength: noise level as a share of the schedule, 0 to 1; at 0 the image only passes the autoencoder.
            steps: denoising steps that are made.
            guidance: classifier-free guidance scale; 1 is none.
            seeds: of the noise.
        """
        ...

    def text_to_image(
        self, prompts: Sequence[str], height: int, width: int, steps: int, guidance: float, seeds: Sequence[int]
    ) -> Float[Tensor, "batch 3 H W"]:
        """Images of `height` x `width` px for the prompts."""
        ...


@runtime_checkable
class LocalModel(Protocol):
    """What the service on this machine asks of a model."""

    @property
    def schedule(self) -> Schedule:
        """The model's noise schedule."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        ...

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of an image of that size in px."""
        ...

    def encode(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch c h w"]:
        """Clean latents of images."""
        ...

    def decode(self, z0: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 3 H W"]:
        """Images for clean latents."""
        ...

    def text(self, prompts: Sequence[str]) -> Conditioning:
        """What the model is told under each prompt."""
        ...

    def noisy(self, z0: Float[Tensor, "batch c h w"], seeds: tuple[int, ...], t: int) -> Float[Tensor, "batch c h w"]:
        """Latents with seeded noise at `t`."""
        ...

    def guided_noise(
        self,
        z_t: Float[Tensor, "batch c h w"],
        t: int,
        conditioning: Conditioning,
        empty: Conditioning,
        guidance: float,
    ) -> Float[Tensor, "batch c h w"]:
        """Predicted noise under classifier-free guidance."""
        ...


class Service(BaseModel, ABC):
    """Base of every service: a pydantic model whose fields are its options, as they stand in a job's `replica`.

    To add one, put a subclass with `name` and `capabilities` into a file of this folder that has the service's name. No field
    may hold a secret: run.json keeps them all. Name the environment variable instead. See docs/add_a_service.md.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    title: ClassVar[str]
    """What it is, for people."""
    capabilities: ClassVar[frozenset[Capability]]
    """What can be asked of it; attacks that ask for more are refused."""

    service: str = Field(description="Name of the service.")
    resolution_px: int = Field(512, ge=8, le=4096, description="Side of the square images that are sent and asked for.")

    def price(self) -> float | None:
        """What an image costs, in the currency that the service bills in; none where nothing is known."""
        return None

    def fingerprint(self) -> str:
        """What identifies the attacked model, as far as that can be said: a digest of the options."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @abstractmethod
    def open(self, model: LocalModel | None) -> BlackBox:
        """Make the service ready, within the process that is to use it.

        Args:
            model: loaded in this process, where the job names one; hosted services do without.

        Raises:
            ConfigError: it cannot be used as it is configured.
        """


SERVICES: Registry[Service] = Registry(
    "service",
    "raymia.services",
    Service,  # type: ignore[type-abstract]
    "raymia.services",
    beside=("protocol",),
)
"""Every service."""
