"""What to ask for: diffusers' own pipelines make as many steps as are wanted, from the level that is wanted."""

from __future__ import annotations

import pytest
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline

from raymia.errors import ConfigError
from raymia.services.strength import NEAR, Spacing, to_ask


def visited(steps: int, strength: float, spacing: str) -> list[int]:
    """The timesteps that diffusers' pipeline visits."""
    pipeline = StableDiffusionImg2ImgPipeline.__new__(StableDiffusionImg2ImgPipeline)
    scheduler = DDIMScheduler(timestep_spacing=spacing, steps_offset=1)
    scheduler.set_timesteps(steps)
    object.__setattr__(pipeline, "scheduler", scheduler)
    timesteps, _ = pipeline.get_timesteps(steps, strength, "cpu")
    return [int(t) for t in timesteps]


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("t", [50, 100, 200, 300, 400, 700, 900])
@pytest.mark.parametrize("steps", [2, 3, 5, 10, 25])
def test_diffusers_makes_as_many_steps_from_the_level(steps: int, t: int, spacing: Spacing) -> None:
    try:
        asked = to_ask(steps, t / 1000, spacing)
    except ConfigError:
        found = [visited(number, (steps + 0.5) / number, spacing) for number in range(steps + 1, 301)]
        firsts = [made[0] for made in found if len(made) == steps]
        assert min(abs(first - t) for first in firsts) > NEAR * t, "no number of steps begins near enough"
        return
    made = visited(asked.steps, asked.strength, spacing)
    assert (len(made), made[0]) == (steps, asked.first)
    assert made[0] == pytest.approx(t, rel=NEAR)


def test_one_step_of_leading_spacing_is_no_noise_level_and_one_of_trailing_spacing_is() -> None:
    assert visited(20, 0.05, "leading") == [1], "what a share of 50 in 1000 would have come to"
    with pytest.raises(
        ConfigError, match="timestep 50 in 1 steps: a sampler of leading spacing comes no nearer than timestep 1"
    ):
        to_ask(1, 0.05, "leading")
    assert visited(to_ask(1, 0.05, "trailing").steps, to_ask(1, 0.05, "trailing").strength, "trailing") == [49]


@pytest.mark.parametrize("level", [0.05, 0.1, 0.3, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 25])
def test_where_the_spacing_is_not_known_strength_is_the_level_and_as_many_steps_are_made(steps: int, level: float) -> None:
    asked = to_ask(steps, level, "share")
    assert asked.strength == level
    assert len(visited(asked.steps, level, "leading")) == steps
