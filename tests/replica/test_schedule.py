"""Noise schedules against diffusers' own schedulers, and the levels that timesteps name."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from raymia.errors import ConfigError
from raymia.replica.schedule import (
    STABLE_DIFFUSION_1,
    Flow,
    Schedule,
    VariancePreserving,
    clean_from_noise,
    ddim_move,
    level_names,
    mix,
    named_levels,
)

LINEAR = {"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
Z0, NOISE = torch.randn(2, 2, 4, 4, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def flow(naming: Any = "levels", **options: Any) -> tuple[Flow, FlowMatchEulerDiscreteScheduler]:
    scheduler = FlowMatchEulerDiscreteScheduler(**options)
    config = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    return Flow({**config, "_class_name": "FlowMatchEulerDiscreteScheduler"}, naming=naming), scheduler


@pytest.mark.parametrize("options", [{}, {"shift": 3.0}, {"num_train_timesteps": 500, "shift": 1.5}])
def test_a_flows_own_steps_are_the_training_levels_of_diffusers(options: dict[str, Any]) -> None:
    schedule, scheduler = flow("own", **options)
    sigmas = [schedule.sigma(t) for t in range(schedule.timesteps)]
    assert torch.allclose(torch.tensor(sigmas), scheduler.sigmas.flip(0), atol=1e-6)
    for t in (0, 100, 400):
        level = scheduler.sigmas.flip(0)[t : t + 1].double()
        expected = scheduler.scale_noise(Z0, scheduler.timesteps.flip(0)[t : t + 1], NOISE)
        assert torch.allclose(mix(schedule, Z0, NOISE, t), expected.double(), atol=1e-6)
        assert float(schedule.time(t)) == pytest.approx(float(level), rel=1e-6)


def test_a_flows_output_means_velocity_and_gives_back_noise_and_image() -> None:
    schedule, _ = flow()
    for t in (50, 500):
        z = mix(schedule, Z0, NOISE, t)
        assert torch.allclose(schedule.noise_from_output(NOISE - Z0, z, t), NOISE)
        assert torch.allclose(schedule.output_from_noise(NOISE, z, t), NOISE - Z0)
        assert torch.allclose(clean_from_noise(schedule, z, NOISE, t), Z0)
        assert schedule.alpha(t) + schedule.sigma(t) == pytest.approx(1.0)


def test_a_move_of_a_flow_is_the_euler_step_of_diffusers() -> None:
    schedule, scheduler = flow("own")
    scheduler.set_timesteps(10)
    velocity, t, u = torch.randn_like(Z0), int(scheduler.timesteps[3]), int(scheduler.timesteps[4])
    expected = scheduler.step(velocity.float(), scheduler.timesteps[3], Z0.float()).prev_sample
    # Own step i stands at sigma (i + 1) / 1000.
    before, after = schedule.step_of(t / 1000), schedule.step_of(u / 1000)
    moved = ddim_move(schedule, Z0, schedule.noise_from_output(velocity, Z0, before), before, after)
    reached = float(scheduler.sigmas[4])
    assert schedule.sigma(after) == pytest.approx(reached, abs=5e-4)
    assert torch.allclose(moved.float(), expected, atol=5e-3)
    exact = Z0 + velocity * (schedule.sigma(after) - schedule.sigma(before))
    assert torch.allclose(moved, exact)


def test_a_timestep_is_the_step_itself_where_the_levels_are_stable_diffusions() -> None:
    own, named = VariancePreserving(STABLE_DIFFUSION_1, naming="own"), VariancePreserving(STABLE_DIFFUSION_1)
    for t in range(1000):
        assert int(named.time(t)) == int(own.time(t)) == t
        assert (named.alpha(t), named.sigma(t)) == (own.alpha(t), own.sigma(t))


@pytest.mark.parametrize("schedule", [VariancePreserving(LINEAR), flow(shift=3.0)[0]], ids=["linear", "flow"])
def test_a_timestep_names_the_same_level_in_every_family(schedule: Schedule) -> None:
    for t in (50, 100, 300, 500, 900):
        level = schedule.sigma(t) / (schedule.alpha(t) + schedule.sigma(t))
        assert level == pytest.approx(float(named_levels()[t]), abs=2e-3)
        assert schedule.timesteps == 1000


def test_each_image_gets_the_time_and_the_conversion_of_its_own_timestep() -> None:
    schedule, _ = flow()
    z, output, steps = torch.randn_like(Z0), torch.randn_like(Z0), (100, 700)
    together = schedule.noise_from_output(output, z, torch.tensor(steps))
    for i, t in enumerate(steps):
        assert torch.allclose(together[i], schedule.noise_from_output(output[i : i + 1], z[i : i + 1], t)[0])
        assert float(schedule.time(torch.tensor(steps))[i]) == float(schedule.time(t))


def test_linear_betas_are_moved_between_own_steps_as_diffusers_does() -> None:
    scheduler = DDIMScheduler(clip_sample=False, **LINEAR)
    schedule = VariancePreserving(json.loads(scheduler.to_json_string()), naming="own")
    scheduler.set_timesteps(10)
    expected = scheduler.step(NOISE, 500, Z0).prev_sample
    assert torch.allclose(ddim_move(schedule, Z0, NOISE, 500, 400), expected, atol=1e-5)


def test_what_is_no_flow_or_has_no_signal_left_is_refused() -> None:
    with pytest.raises(ConfigError, match="a DDIMScheduler; expected one of FlowMatchEuler"):
        Flow({"_class_name": "DDIMScheduler"})
    terminal = VariancePreserving({**STABLE_DIFFUSION_1, "rescale_betas_zero_snr": True}, naming="own")
    with pytest.raises(ConfigError, match="timestep 999 is pure noise"):
        terminal.check(999)
    with pytest.raises(ConfigError, match="expected 0 to 999"):
        level_names().check(1000)
