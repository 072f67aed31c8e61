"""Parameter types that several attacks share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

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

Steps = Annotated[int, Ge(1)]
"""Denoising steps of an image."""

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


def forwards_of(images: int, steps: int | None, guidance: float | None) -> int:
    """Forwards of so many images in so many steps; none where they are a service's own affair."""
    return 0 if steps is None or guidance is None else images * steps * evaluations_per_step(guidance)


def told_under(guidance: float | None) -> frozenset[Ability]:
    """What a model must be able to be told so that it can be asked under a guidance scale."""
    return frozenset(()) if guidance in (None, 1.0) else frozenset(("condition", "unconditional"))


OWN: Mapping[Capability, tuple[str, Any]] = {"steps": ("steps", None), "guidance": ("guidance", None)}
"""Fields that are left to a service which cannot be told of them; see `raymia.attacks.base.Attack.spares`."""
CALIBRATED: Mapping[Capability, tuple[str, Any]] = {**OWN, "reconstruction": ("calibrate", False)}
"""As `OWN`, of attacks that take the autoencoder's own error from their scores where it is known."""


def asked_of_service(
    *kinds: Capability, steps: int | None, guidance: float | None, calibrate: bool = False
) -> frozenset[Capability]:
    """What a black-box attack asks of a service.

    Args:
        kinds: of images, and what else must be said of them.
        steps, guidance: of each image; none leaves them to the service.
        calibrate: whether images after the autoencoder alone are asked for.
    """
    said: list[Capability] = [*kinds]
    said += [] if steps is None else ["steps"]
    said += [] if guidance is None else ["guidance"]
    said += ["reconstruction"] if calibrate else []
    return frozenset(said)
