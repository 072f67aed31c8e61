"""The noise schedule of a model: z_t = alpha(t) z_0 + sigma(t) noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from raymia.errors import ConfigError

PREDICTION_TYPES = ("epsilon", "v_prediction")
REQUIRED = ("num_train_timesteps", "beta_schedule", "prediction_type")


class Schedule:
    """alpha and sigma at every training timestep, read from the model's own scheduler config.

    Attributes:
        timesteps: number of training timesteps; valid ones are 0 .. timesteps - 1.
        prediction_type: ``epsilon`` or ``v_prediction``: what the UNet's output means.
    """

    def __init__(self, config: dict[str, Any], source: str = "scheduler config") -> None:
        """Args:
            config: contents of a diffusers ``scheduler_config.json`` of any discrete-time scheduler.
            source: named in errors.

        Raises:
            ConfigError: the config does not describe a discrete-time variance-preserving schedule.
        """
        missing = [field for field in REQUIRED[:2] if field not in config]
        if missing:
            raise ConfigError(
                f"{source}: no {' or '.join(missing)}; expected the config of a discrete-time scheduler such as DDIM or PNDM"
            )
        self.prediction_type: str = config.get("prediction_type", "epsilon")
        if self.prediction_type not in PREDICTION_TYPES:
            raise ConfigError(
                f"{source}: prediction_type {self.prediction_type!r}; supported are {', '.join(PREDICTION_TYPES)}"
            )
        known = {key: value for key, value in config.items() if key in DDIMScheduler._get_init_keys(DDIMScheduler)}
        try:
            alphas_cumprod = DDIMScheduler(**known).alphas_cumprod.double()
        except (NotImplementedError, TypeError, ValueError) as error:
            raise ConfigError(f"{source}: {error}") from error
        self.timesteps = len(alphas_cumprod)
        self._alpha = alphas_cumprod.sqrt()
        self._sigma = (1.0 - alphas_cumprod).sqrt()

    @classmethod
    def from_file(cls, path: Path) -> Schedule:
        """Read a ``scheduler_config.json``."""
        try:
            config = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: not a readable scheduler config ({error})") from error
        return cls(config, str(path))

    def check(self, *timesteps: int) -> None:
        """Refuse timesteps outside the schedule, and those at which no signal is left (zero terminal SNR).

        Raises:
            ConfigError: names the timestep.
        """
        for t in timesteps:
            if not 0 <= t < self.timesteps:
                raise ConfigError(f"timestep {t} is outside the model's schedule; expected 0 to {self.timesteps - 1}")
            if float(self._alpha[t]) == 0.0:
                raise ConfigError(f"timestep {t} is pure noise in this model's schedule; choose a smaller one")

    def alpha(self, t: int) -> float:
        """Signal scale at timestep `t`."""
        return float(self._alpha[t])

    def sigma(self, t: int) -> float:
        """Noise scale at timestep `t`."""
        return float(self._sigma[t])

    def add_noise(self, z0: Tensor, noise: Tensor, t: int) -> Tensor:
        """z_t from clean latents and noise of the same shape."""
        return self.alpha(t) * z0 + self.sigma(t) * noise

    def noise_from_output(self, output: Tensor, z_t: Tensor, t: int | Tensor) -> Tensor:
        """The UNet's output as predicted noise: itself, or for v-prediction sigma z_t + alpha v.

        Args:
            t: timestep, or one for each sample.
        """
        if self.prediction_type == "epsilon":
            return output
        if isinstance(t, int):
            return self.sigma(t) * z_t + self.alpha(t) * output
        alpha, sigma = (scale[t.cpu()].to(z_t).view(-1, 1, 1, 1) for scale in (self._alpha, self._sigma))
        noise: Tensor = sigma * z_t + alpha * output
        return noise

    def clean_from_noise(self, z_t: Tensor, noise: Tensor, t: int) -> Tensor:
        """The clean latents that `z_t` implies when `noise` is in it."""
        return (z_t - self.sigma(t) * noise) / self.alpha(t)

    def ddim_move(self, z_t: Tensor, noise: Tensor, t: int, u: int) -> Tensor:
        """Deterministic DDIM move from timestep `t` to `u`, up or down (Song et al., arXiv 2010.02502, eq. 12 with eta 0)."""
        return self.alpha(u) * self.clean_from_noise(z_t, noise, t) + self.sigma(u) * noise


def noise_like(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal noise on the CPU, the same for the same seed on every machine and device."""
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))
