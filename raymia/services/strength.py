"""How many steps a service must be asked for so that it makes as many as are wanted from a noise level."""

from __future__ import annotations

from raymia.errors import ConfigError

MOST_STEPS = 100_000


def asked_as_share(steps: int, strength: float) -> int:
    """The number to ask of a service that makes ``int(number x strength)`` steps, as diffusers' pipelines do.

    It is the one nearest to steps / strength, so that the first step stands where the noise level does.

    Args:
        steps: that are wanted.
        strength: noise level as a share of the schedule, above 0.

    Raises:
        ConfigError: no number gives as many.
    """
    near = round(steps / strength)
    for number in sorted(range(max(1, near - 2), near + 3), key=lambda number: abs(number - steps / strength)):
        if int(number * strength) == steps:
            return number
    raise ConfigError(f"strength {strength:g}: no number of steps of which {steps} are made; change `steps` or the timestep")
