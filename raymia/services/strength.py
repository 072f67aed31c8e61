"""What to ask of a service that runs diffusers' image-to-image, so that it begins at a noise level and makes so many steps.

Such a service takes a strength and a number of steps, spaces so many timesteps over the whole schedule, and makes the last
``int(steps x strength)`` of them; the image is noised to the first that it makes. Strength says which of them are made, and the
spacing at which level they begin. Source: diffusers 0.42, `StableDiffusionImg2ImgPipeline.get_timesteps` and `prepare_latents`,
`DDIMScheduler.set_timesteps`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raymia.errors import ConfigError

Spacing = Literal["leading", "trailing", "share"]
"""How a sampler spaces its timesteps: as `timestep_spacing` of its config, or, where that is not known, by strength alone."""
TIMESTEPS = 1000
NEAR = 0.05
"""Share of the noise level by which the first step may miss it."""


@dataclass(frozen=True)
class Asked:
    """What a service is asked for.

    Attributes:
        steps: spaced over the whole schedule.
        strength: of which the last so many are made.
        first: timestep of the first that is made; none where the spacing is not known.
    """

    steps: int
    strength: float
    first: int | None


@cache
def to_ask(steps: int, level: float, spacing: Spacing) -> Asked:
    """The numbers to send, so that `steps` are made from a noise level.

    Args:
        steps: that are to be made.
        level: noise level as a share of the schedule, above 0 and to 1.
        spacing: of the service's sampler.

    Raises:
        ConfigError: no numbers come near enough to the level.
    """
    if spacing == "share":
        # At no more than 1 each step of the number adds at most one to those that are made: every number of them is found.
        near = round(steps / level)
        fits = [number for number in range(max(1, near - 2), near + 3) if int(number * level) == steps]
        return Asked(min(fits, key=lambda number: abs(number - steps / level)), level, None)
    t = level * TIMESTEPS
    found = []
    for number in range(steps + 1, TIMESTEPS + 1):
        timesteps = _spaced(number, spacing)
        # By rounding some numbers are spaced to one timestep more, of which one more would be made.
        if len(timesteps) == number:
            found.append(Asked(number, (steps + 0.5) / number, int(timesteps[number - steps])))
    best = min(found, key=lambda asked: (abs((asked.first or 0) - t), asked.steps))
    if abs((best.first or 0) - t) > NEAR * t:
        raise ConfigError(
            f"timestep {t:.0f} in {steps} steps: a sampler of {spacing} spacing comes no nearer than timestep {best.first}; "
            "ask for more steps"
        )
    return best


def _spaced(number: int, spacing: Spacing) -> NDArray[np.float64]:
    """So many timesteps as diffusers spaces them, with an offset of 1 where there is one, as Stable Diffusion has."""
    if spacing == "leading":
        return np.arange(number, dtype=np.float64)[::-1] * (TIMESTEPS // number) + 1.0
    return np.round(np.arange(TIMESTEPS, 0, -TIMESTEPS / number, dtype=np.float64)) - 1.0
