"""Noise schedules: z_t = alpha(t) z_0 + sigma(t) noise, whatever a model's own steps are.

A timestep t in a job names a noise level: the one that Stable Diffusion 1.x has at t. Every schedule takes its own step nearest
to that level, so that the same t means the same share of noise in every family. For Stable Diffusion 1.x, 2.x and SDXL it is t.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from raymia.errors import ConfigError
from raymia.replica.device import onto
from raymia.replica.scheduler_config import rectified_flow, variance_preserving

Naming = Literal["levels", "own"]
"""What a timestep in a job means: a noise level by the step that Stable Diffusion 1.x has there, or the model's own step."""
Kind = Literal["variance_preserving", "flow"]
STABLE_DIFFUSION_1: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
"""Whose steps name the levels."""


@runtime_checkable
class Schedule(Protocol):
    """What attacks and replicas ask of a model's noise schedule; t is a timestep as jobs name it.

    Attributes:
        kind: ``variance_preserving`` (alpha^2 + sigma^2 = 1) or ``flow`` (alpha + sigma = 1).
        prediction_type: what the denoiser's output means: ``epsilon`` (noise), ``v_prediction`` or ``flow`` (velocity).
        timesteps: how many there are; valid ones are 0 .. timesteps - 1.
    """

    kind: Kind
    prediction_type: str
    timesteps: int

    def alpha(self, t: int) -> float:
        """Signal scale at `t`."""
        ...

    def sigma(self, t: int) -> float:
        """Noise scale at `t`."""
        ...

    def step_of(self, level: float) -> int:
        """The model's own step nearest to a level s = sigma / (alpha + sigma)."""
        ...

    def time(self, t: int | Tensor, device: torch.device | None = None) -> Tensor:
        """What the denoiser is told of `t`, or of each image's own: a step where it counts steps, sigma in a flow.

        Args:
            t: timestep, or one for each image, on whose device the times are.
            device: where the time of a single timestep is; by default the CPU.
        """
        ...

    def noise_from_output(self, output: Tensor, z_t: Tensor, t: int | Tensor) -> Tensor:
        """The denoiser's output at `z_t` as predicted noise.

        Args:
            t: timestep, or one for each image.
        """
        ...

    def output_from_noise(self, noise: Tensor, z_t: Tensor, t: int) -> Tensor:
        """What the denoiser puts out when it sees `noise` in `z_t`: the inverse of `noise_from_output`."""
        ...

    def noise_by_output(self, t: int) -> float:
        """How far predicted noise moves where the output moves by one: errors of the noise over it are errors of the output.

        Errors are averaged over levels as the model was trained to make them small, which is as errors of its output.
        """
        ...

    def check(self, *timesteps: int) -> None:
        """Refuse timesteps that there are not, and those at which no signal is left.

        Raises:
            ConfigError: names the timestep.
        """
        ...


class TabulatedSchedule:
    """A schedule of finitely many steps, looked up by the levels that jobs name; see `Schedule`."""

    kind: Kind
    prediction_type: str

    def __init__(self, alphas: Tensor, sigmas: Tensor, times: Tensor, naming: Naming) -> None:
        """Look up every timestep once.

        Args:
            alphas, sigmas: (steps,) of the model's own steps, from little noise to much.
            times: (steps,) what the denoiser is told at each.
            naming: of timesteps in jobs.
        """
        self._levels = sigmas / (alphas + sigmas)
        steps = torch.arange(len(alphas))
        if naming == "levels":
            steps = (self._levels[None] - named_levels()[:, None]).abs().argmin(1)
        self.timesteps = len(steps)
        self._times = times[steps]
        self._alphas: list[float] = alphas[steps].tolist()
        self._sigmas: list[float] = sigmas[steps].tolist()
        self._tables = {torch.device("cpu"): (alphas[steps], sigmas[steps], self._times)}

    def alpha(self, t: int) -> float:
        """Signal scale at `t`."""
        return self._alphas[t]

    def sigma(self, t: int) -> float:
        """Noise scale at `t`."""
        return self._sigmas[t]

    def step_of(self, level: float) -> int:
        """The model's own step nearest to a level."""
        return int((self._levels - level).abs().argmin())

    def time(self, t: int | Tensor, device: torch.device | None = None) -> Tensor:
        """What the denoiser is told of `t`, or of each image's own."""
        place = t.device if isinstance(t, Tensor) else device
        return (self._times if place is None else self._on(place)[2])[t]

    def check(self, *timesteps: int) -> None:
        """Refuse timesteps outside the schedule, and those at which no signal is left (zero terminal SNR)."""
        for t in timesteps:
            if not 0 <= t < self.timesteps:
                raise ConfigError(f"timestep {t} is outside the model's schedule; expected 0 to {self.timesteps - 1}")
            if self.alpha(t) == 0.0:
                raise ConfigError(f"timestep {t} is pure noise in this model's schedule; choose a smaller one")

    def _scales(self, z_t: Tensor, t: int | Tensor) -> tuple[float, float] | tuple[Tensor, Tensor]:
        """alpha and sigma, as numbers or with a row for each image of `z_t`."""
        if isinstance(t, int):
            return self.alpha(t), self.sigma(t)
        alpha, sigma = (scale[t].to(z_t).view(-1, 1, 1, 1) for scale in self._on(t.device)[:2])
        return alpha, sigma

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Signal scales, noise scales and times of all timesteps on a device, where they stay: no call waits for them."""
        if device not in self._tables:
            alphas, sigmas, times = (onto(device, table) for table in self._tables[torch.device("cpu")])
            self._tables[device] = alphas, sigmas, times
        return self._tables[device]


class VariancePreserving(TabulatedSchedule):
    """alpha^2 + sigma^2 = 1: Stable Diffusion and its kin."""

    kind: Kind = "variance_preserving"

    def __init__(self, config: dict[str, Any], source: str = "scheduler config", naming: Naming = "levels") -> None:
        """Read the model's own scheduler config.

        Args:
            config: contents of the ``scheduler_config.json`` of a discrete-time scheduler of diffusers.
            source: named in errors.
            naming: of timesteps in jobs.

        Raises:
            ConfigError: the config does not describe a discrete-time variance-preserving schedule.
        """
        alphas_cumprod, self.prediction_type = variance_preserving(config, source)
        times = torch.arange(len(alphas_cumprod))
        super().__init__(alphas_cumprod.sqrt(), (1.0 - alphas_cumprod).sqrt(), times, naming)

    def noise_from_output(self, output: Tensor, z_t: Tensor, t: int | Tensor) -> Tensor:
        """The output itself, or for v-prediction sigma z_t + alpha v."""
        if self.prediction_type == "epsilon":
            return output
        alpha, sigma = self._scales(z_t, t)
        noise: Tensor = sigma * z_t + alpha * output
        return noise

    def output_from_noise(self, noise: Tensor, z_t: Tensor, t: int) -> Tensor:
        """The noise itself, or for v-prediction (noise - sigma z_t) / alpha."""
        if self.prediction_type == "epsilon":
            return noise
        return (noise - self.sigma(t) * z_t) / self.alpha(t)

    def noise_by_output(self, t: int) -> float:
        """1, or for v-prediction alpha."""
        return 1.0 if self.prediction_type == "epsilon" else self.alpha(t)


class Flow(TabulatedSchedule):
    """alpha + sigma = 1 (rectified flow): the output is the velocity, noise - z_0.

    A model's `shift` says where its training puts its levels, and not what its output means at one.
    """

    kind: Kind = "flow"
    prediction_type: str = "flow"

    def __init__(self, config: dict[str, Any], source: str = "scheduler config", naming: Naming = "levels") -> None:
        """Read the model's own scheduler config.

        Args:
            config: contents of the ``scheduler_config.json`` of a scheduler of diffusers that samples flows.
            source: named in errors.
            naming: of timesteps in jobs.

        Raises:
            ConfigError: the config does not describe a flow.
        """
        sigmas = rectified_flow(config, source)
        super().__init__(1.0 - sigmas, sigmas, sigmas.float(), naming)

    def noise_from_output(self, output: Tensor, z_t: Tensor, t: int | Tensor) -> Tensor:
        """z_t + (1 - sigma) v."""
        alpha, _ = self._scales(z_t, t)
        noise: Tensor = z_t + alpha * output
        return noise

    def output_from_noise(self, noise: Tensor, z_t: Tensor, t: int) -> Tensor:
        """(noise - z_t) / (1 - sigma)."""
        return (noise - z_t) / self.alpha(t)

    def noise_by_output(self, t: int) -> float:
        """1 - sigma."""
        return self.alpha(t)


def mix(schedule: Schedule, z0: Tensor, noise: Tensor, t: int) -> Tensor:
    """z_t from clean latents and noise of the same shape."""
    return schedule.alpha(t) * z0 + schedule.sigma(t) * noise


def clean_from_noise(schedule: Schedule, z_t: Tensor, noise: Tensor, t: int) -> Tensor:
    """The clean latents that `z_t` implies when `noise` is in it."""
    return (z_t - schedule.sigma(t) * noise) / schedule.alpha(t)


def ddim_move(schedule: Schedule, z_t: Tensor, noise: Tensor, t: int, u: int) -> Tensor:
    """Deterministic move from timestep `t` to `u`, up or down (Song et al., arXiv 2010.02502, eq. 12 with eta 0)."""
    return mix(schedule, clean_from_noise(schedule, z_t, noise, t), noise, u)


@lru_cache(1)
def level_names() -> VariancePreserving:
    """The schedule whose steps name the levels: what a job's timesteps mean where no model is at hand."""
    return VariancePreserving(STABLE_DIFFUSION_1, "Stable Diffusion 1", "own")


def named_levels() -> Tensor:
    """(1000,) the level s = sigma / (alpha + sigma) that each timestep in a job names."""
    return level_names()._levels
