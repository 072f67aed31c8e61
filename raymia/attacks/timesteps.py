"""Parameter types that several attacks share."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Len
from pydantic import AfterValidator


def _distinct(timesteps: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(timesteps)) != len(timesteps):
        raise ValueError("timesteps must be distinct")
    return timesteps


Timestep = Annotated[int, Ge(0)]
"""A training timestep of the model's schedule; its upper end is checked against the model."""

Timesteps = Annotated[tuple[Timestep, ...], Len(min_length=1), AfterValidator(_distinct)]
"""One or more distinct timesteps."""
