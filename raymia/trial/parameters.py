"""Parameter types that several attacks share."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from annotated_types import Ge, Len
from pydantic import AfterValidator

from raymia.replica.families import Ability
from raymia.services.protocol import Capability

T = TypeVar("T")


def distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    """Refuse a value given twice: it would make two signals of one name.

    Raises:
        ValueError: some value stands twice.
    """
    if len(set(values)) != len(values):
        raise ValueError("values must be distinct")
    return values


Timestep = Annotated[int, Ge(0)]
"""A training timestep of the model's schedule; its upper end is checked against the model."""

Timesteps = Annotated[tuple[Timestep, ...], Len(min_length=1), AfterValidator(distinct)]
"""One or more distinct timesteps."""


def require_among(timestep: int, timesteps: tuple[int, ...]) -> None:
    """Refuse a primary timestep that is not one of those that an attack evaluates.

    Raises:
        ValueError: it is not.
    """
    if timestep not in timesteps:
        raise ValueError(f"timestep {timestep} is not among timesteps {list(timesteps)}")


Guidance = Annotated[float, Ge(1.0)]
"""Classifier-free guidance scale; 1 is none."""

MicroBatch = Annotated[int, Ge(1)]
"""Samples whose gradients are in memory at once; changes no score beyond rounding."""


Draws = Literal["shared", "own"]
"""Whether the k-th draw is the same noise at all timesteps, or every timestep has draws of its own."""


def evaluations_at(timesteps: tuple[int, ...], draws: int, noise: Draws) -> list[tuple[int, int]]:
    """Timestep and number of the draw of each evaluation; see `draws_at`."""
    count = len(timesteps)
    return [(t, draw) for place, t in enumerate(timesteps) for draw in draws_at(place, count, draws, noise)]


def draws_at(place: int, timesteps: int, draws: int, noise: Draws) -> range:
    """Numbers of the noise draws at the timestep in a place among several.

    Args:
        place: of the timestep, from 0.
        timesteps: how many there are.
        draws: at each.
        noise: whether all timesteps have the same draws, or the i-th of n has draws i, i + n, i + 2n, ..
    """
    return range(draws) if noise == "shared" else range(place, timesteps * draws, timesteps)


def evaluations_per_step(guidance: float) -> int:
    """Forwards of a denoising step: with guidance the empty prompt is evaluated too."""
    return 1 if guidance == 1.0 else 2


def told_under(guidance: float) -> frozenset[Ability]:
    """What a model must be able to be told so that it can be asked under a guidance scale."""
    return frozenset(()) if guidance == 1.0 else frozenset(("condition", "unconditional"))


def asked_of_service(*kinds: Capability, guidance: float) -> frozenset[Capability]:
    """What a black-box attack that makes images in so many steps under a guidance scale asks of a service.

    Args:
        kinds: of images, and what else must be said of them.
        guidance: scale; 1 is none, which every service can do.
    """
    guided: tuple[Capability, ...] = () if guidance == 1.0 else ("guidance",)
    return frozenset((*kinds, "steps", "seed", *guided))
