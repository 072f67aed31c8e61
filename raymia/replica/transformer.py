"""What families share whose denoiser is a transformer, over the latents of a rectified flow or under noise of betas."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from raymia.errors import ConfigError
from raymia.replica.autoencoder import check_config, latent_shape_of
from raymia.replica.configs import read_config
from raymia.replica.families import Family
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.replica.parameter_groups import TRANSFORMER_GROUPS, transformer_group
from raymia.replica.parts import Parts
from raymia.replica.schedule import Flow, Naming, Schedule, VariancePreserving
from raymia.replica.scheduler_config import read_scheduler

STEPS = 1000
"""What diffusers' pipelines count the time of a flow in, whatever a scheduler's config says."""


class FlowFamily(Family):
    """Pipelines with a `transformer` over the latents of an AutoencoderKL called `vae`, and the scheduler of a flow."""

    groups: ClassVar[tuple[str, ...]] = TRANSFORMER_GROUPS
    grain: ClassVar = 2
    levels: ClassVar = "flow: velocity"

    def schedule(self, folder: Path, naming: Naming = "levels") -> Schedule:
        file = folder / "scheduler" / "scheduler_config.json"
        config = read_scheduler(file)
        schedule = Flow(config, str(file), naming)
        if config.get("num_train_timesteps", STEPS) != STEPS:
            raise ConfigError(
                f"{file}: num_train_timesteps is {config['num_train_timesteps']}; expected {STEPS}, which pipelines count in"
            )
        return schedule

    def latent_shape(self, folder: Path, resolution_px: int) -> tuple[int, int, int]:
        return latent_shape_of(read_config(folder, "vae", self.parts["vae"]), resolution_px)

    def parameter_group(self, name: str) -> str | None:
        return transformer_group(name)


class NoiseFamily(Family):
    """Pipelines with a `transformer` that predicts noise, and perhaps its variance, of latents of a `vae`, over betas."""

    groups: ClassVar[tuple[str, ...]] = TRANSFORMER_GROUPS
    grain: ClassVar = 2
    levels: ClassVar = "variance preserving: noise or velocity"

    def schedule(self, folder: Path, naming: Naming = "levels") -> Schedule:
        file = folder / "scheduler" / "scheduler_config.json"
        config = read_scheduler(file)
        transformer = read_config(folder, "transformer", self.parts["transformer"])
        if transformer["out_channels"] == 2 * transformer["in_channels"]:
            # Behind the noise stands the variance, which is of sampling.
            config = {**config, "variance_type": None}
        return VariancePreserving(config, str(file), naming)

    def latent_shape(self, folder: Path, resolution_px: int) -> tuple[int, int, int]:
        return latent_shape_of(read_config(folder, "vae", self.parts["vae"]), resolution_px)

    def parameter_group(self, name: str) -> str | None:
        return transformer_group(name)


class TransformerDiffusion(LatentDiffusion):
    """A replica whose denoiser is the pipeline's `transformer`."""

    def _load_denoiser(self, parts: Parts) -> nn.Module:
        transformer: nn.Module = parts.model("transformer", self.dtype)
        return transformer


def check_kl(folder: Path, path: str, channels: int, per_channel: int = 1) -> dict[str, Any]:
    """The config of an autoencoder that fits a transformer: an AutoencoderKL, or another with one scale for all latents.

    Args:
        folder: of the pipeline.
        path: the autoencoder's class.
        channels: that the transformer takes.
        per_channel: how many of those each channel of the latents gives, where they are packed.

    Raises:
        ConfigError: names the field.
    """
    vae = read_config(folder, "vae", path)
    check_config(vae, folder / "vae")
    if channels != vae["latent_channels"] * per_channel:
        raise ConfigError(
            f"{folder}/transformer: in_channels {channels}, but the autoencoder's {vae['latent_channels']} give "
            f"{vae['latent_channels'] * per_channel}; models that see an image or a mask beside the noise are not supported"
        )
    return vae


def check_fields(config: Mapping[str, Any], place: Path, expected: Mapping[str, tuple[tuple[Any, ...], str]]) -> None:
    """Refuse a config that asks for what a family does not do.

    Args:
        config: of a part, with the values of its class where it is silent.
        place: the part's folder.
        expected: values by field, and what another one means.

    Raises:
        ConfigError: names the field.
    """
    for field, (served, meaning) in expected.items():
        if config[field] not in served:
            raise ConfigError(f"{place}: {field} is {config[field]!r}; {meaning} is not supported, expected {served[-1]!r}")


def each(times: Tensor, count: int) -> Tensor:
    """(count,) times of images, of one for all or one for each."""
    return times.expand(count)
