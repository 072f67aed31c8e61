"""What a service offers: images from images, and images from text; all that a black-box attack may ask for."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from raymia.errors import RaymiaError
from raymia.registry import Registry
from raymia.replica.conditioning import Conditioning
from raymia.replica.schedule import Schedule
from raymia.services.gate import Turns

Capability = Literal[
    "text_to_image", "image_to_image", "strength", "steps", "guidance", "seed", "lossless", "reconstruction", "prompt"
]
"""What can be asked of a service: kinds of images, what can be said about how they are made, and what its answers are: as they
were made (``lossless``, a PNG and no JPEG), of the prompt as it was written (``prompt``), and of the autoencoder alone
(``reconstruction``)."""


class ServiceStoppedError(RaymiaError):
    """A service cannot be asked any more: it is down, the key is not accepted, or what was to be spent is spent."""


@dataclass(frozen=True, eq=False)
class Query:
    """One image that is asked for.

    Attributes:
        key: of the sample.
        draw: number of the image among those that are asked for in the same way.
        prompt: what it is to show.
        seed: of the noise, 63 bits.
        height, width: in px.
        steps: denoising steps that are made; none leaves them to the service.
        guidance: classifier-free guidance scale, 1 is none; none leaves it to the service.
        image: to begin with, in [-1, 1]; none for an image from text.
        strength: noise level as a share of the schedule, above 0 and to 1, where there is an image.
    """

    key: str
    draw: int
    prompt: str
    seed: int
    height: int
    width: int
    steps: int | None
    guidance: float | None
    image: Float[Tensor, "3 H W"] | None = None
    strength: float | None = None


@dataclass(frozen=True, eq=False)
class Queries:
    """Images that are asked for together, one for each sample, all in the same way.

    Attributes:
        keys, prompts, seeds: one per image.
        images: to begin with, (batch, 3, H, W) in [-1, 1]; none for images from text.
        strength: noise level as a share of the schedule, 0 to 1; at 0 an image only passes the autoencoder.
        draw, height, width, steps, guidance: see `Query`.
    """

    keys: Sequence[str]
    draw: int
    prompts: Sequence[str]
    seeds: Sequence[int]
    height: int
    width: int
    steps: int | None
    guidance: float | None
    images: Float[Tensor, "batch 3 H W"] | None = None
    strength: float | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Query]:
        alike = (self.height, self.width, self.steps, self.guidance)
        for place, (key, prompt, seed) in enumerate(zip(self.keys, self.prompts, self.seeds, strict=True)):
            image = None if self.images is None else self.images[place]
            yield Query(key, self.draw, prompt, seed, *alike, image, self.strength)


class ServiceError(Exception):
    """A service did not make an image: the sample becomes a row with this reason, and the scan goes on.

    Attributes:
        reason: a short fixed word, such as ``refused_by_service`` or ``service_failed``.
        detail: what was answered, for a person, without secrets.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Say why."""
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@runtime_checkable
class BlackBox(Protocol):
    """An open service."""

    def answer(self, queries: Queries) -> Float[Tensor, "batch 3 H W"]:
        """Images in [-1, 1] of the asked size, in the order of the queries, on the device of their images.

        Raises:
            ServiceError: one of them is not made; says what the server said. The samples are then asked for one by one.
        """
        ...


@runtime_checkable
class AskedAhead(Protocol):
    """An open service that makes many images at a time."""

    def ask_ahead(self, queries: Sequence[Queries]) -> None:
        """Ask for all that a batch will be asked for, at once, and keep the answers until the next batch.

        Raises:
            RaymiaError: the service cannot be asked any more.
        """
        ...


@runtime_checkable
class Keeps(Protocol):
    """An open service whose answers are kept."""

    def kept_as(self, query: Query) -> str | None:
        """The sha256 by which the image of a query lies among the answers; none where it is not kept."""
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


@dataclass(frozen=True)
class Surroundings:
    """What a process that asks a service has in common with the others of its scan.

    Attributes:
        run: the run directory, beside whose scores answers are kept; without one they are kept in memory.
        turns: in which calls are made; without them this process counts for itself.
    """

    run: str | None = None
    turns: Turns | None = None


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
    """What can be asked of it, whatever its options; attacks that ask for more than `offers` gives are refused."""
    rewrites_prompts: ClassVar[str] = ""
    """Whether and when it makes images of other prompts than it is given, for people; empty where it never does."""
    sizes: ClassVar[str] = "any"
    """Which sides of images it makes, for people."""
    free: ClassVar[frozenset[str]] = frozenset()
    """Fields that change no answer, so that a run may be resumed with other values."""

    service: str = Field(description="Name of the service.")
    model: str | None = Field(None, description="Which of the service's models is asked; none for its only one.")
    resolution_px: int = Field(512, ge=8, le=4096, description="Side of the square images that are sent and asked for.")

    def offers(self) -> frozenset[Capability]:
        """What can be asked of it, as it is configured."""
        return self.capabilities

    def check(self, kinds: Sequence[Query]) -> None:
        """Refuse what the service cannot be asked for, as far as that is known without asking.

        Args:
            kinds: a query of every kind that a job's attacks ask.

        Raises:
            ConfigError: names the field, or the noise level.
        """

    def price(self) -> float | None:
        """What an image costs, in the currency that the service bills in; none where nothing is known."""
        return None

    def told_seed(self, query: Query) -> int | None:
        """The seed that is sent with a query; none where the service takes none."""
        return query.seed if "seed" in self.offers() else None

    def identity(self) -> dict[str, Any]:
        """The options that answers depend on, JSON-like."""
        return self.model_dump(mode="json", exclude=set(self.free))

    def fingerprint(self) -> str:
        """What identifies the attacked model, as far as that can be said: a digest of the options."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()

    @abstractmethod
    def open(self, model: LocalModel | None, surroundings: Surroundings) -> BlackBox:
        """Make the service ready, within the process that is to use it.

        Args:
            model: loaded in this process, where the job names one; hosted services do without.
            surroundings: what this process has in common with others that ask.

        Raises:
            ConfigError: it cannot be used as it is configured.
        """


SERVICES: Registry[Service] = Registry(
    "service",
    "raymia.services",
    Service,  # type: ignore[type-abstract]
    "raymia.services",
    beside=("protocol", "answers", "calls", "checks", "gate", "hosted", "strength"),
)
"""Every service."""
