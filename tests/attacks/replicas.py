"""Replicas whose predictions can be written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from raymia.replica.conditioning import Conditioning
from raymia.replica.parameter_groups import UNET_GROUPS, unet_group
from raymia.replica.schedule import Flow, Schedule, VariancePreserving
from raymia.trial.trial import Trial

SD1 = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
BATCH = 3
MEAN, VARIANCE = 0.3, 0.5
SIDE = 16


class GaussianReplica:
    """Exact for data z_0 ~ N(mean, variance): E(z, t) = s (z - a mean) / (a^2 variance + s^2), plus what the text adds.

    Images are latents of four channels and back; a prompt's text state is its number of words times `per_word`.
    """

    device = torch.device("cpu")
    denoiser_batch = 2 * BATCH + 1
    """Two evaluations of a trial's batch in one call."""
    groups = UNET_GROUPS
    batches_gradients = True
    kind = "epsilon"
    """Of the output, where none is asked for."""

    def __init__(self, mean: float = MEAN, variance: float = VARIANCE, per_word: float = 0.0, kind: str | None = None) -> None:
        kind = kind or self.kind
        self.schedule: Schedule = Flow(FLOW) if kind == "flow" else VariancePreserving({**SD1, "prediction_type": kind})
        self.mean, self.variance, self.per_word = mean, variance, per_word

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return 4, height, width

    def encode(self, images: Tensor) -> Tensor:
        return images.repeat(1, 2, 1, 1)[:, :4].double()

    def text(self, prompts: Sequence[str]) -> Conditioning:
        words = [self.per_word * len(prompt.split()) for prompt in prompts]
        return Conditioning(states=torch.tensor(words, dtype=torch.double)[:, None, None])

    def in_float32(self) -> Self:
        return self

    def parameter_group(self, name: str) -> str | None:
        return unet_group(name)

    def parameters(self) -> dict[str, Tensor]:
        return {"mid_block.resnets.0.gain": torch.ones(1, dtype=torch.double)}

    def predicted_noise(self, z_t: Tensor, t: int | Tensor, conditioning: Conditioning) -> Tensor:
        if isinstance(t, int):
            return self.predicted_noise_with(self.parameters(), z_t, t, conditioning)
        rows = [(z_t[i : i + 1], int(t[i]), conditioning[i : i + 1]) for i in range(len(z_t))]
        return torch.cat([self.predicted_noise_with(self.parameters(), *row) for row in rows])

    def predicted_noise_with(self, parameters: Mapping[str, Tensor], z_t: Tensor, t: int, conditioning: Conditioning) -> Tensor:
        a, s = self.schedule.alpha(t), self.schedule.sigma(t)
        noise = s * (z_t - a * self.mean) / (a * a * self.variance + s * s) + conditioning.states[:, :, :, None]
        noise = noise * parameters["mid_block.resnets.0.gain"]
        if self.schedule.prediction_type == "epsilon":
            return noise
        # What a denoiser of velocities of the same function puts out, on its way back to noise.
        return self.schedule.noise_from_output(self.schedule.output_from_noise(noise, z_t, t), z_t, t)

    def decode(self, z0: Tensor) -> Tensor:
        return z0[:, :3].float()


class LinearReplica(GaussianReplica):
    """E(z) = W z + b on latents of 2 x 2: the gradients of its loss are outer products."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.weight = torch.randn(16, 16, generator=generator, dtype=torch.double)
        self.bias = torch.randn(16, generator=generator, dtype=torch.double)

    def parameters(self) -> dict[str, Tensor]:
        return {"down_blocks.0.attentions.0.weight": self.weight, "conv_out.bias": self.bias}

    def predicted_noise_with(self, parameters: Mapping[str, Tensor], z_t: Tensor, t: int, conditioning: Conditioning) -> Tensor:
        flat = z_t.flatten(1) @ parameters["down_blocks.0.attentions.0.weight"].T + parameters["conv_out.bias"]
        return flat.view_as(z_t)


class PixelEmbedder:
    """Stands where a CLIP stands: the normalised pixels themselves."""

    def embed_images(self, images: Tensor) -> Tensor:
        return torch.nn.functional.normalize(images.flatten(1).float(), dim=1)


def random_images(batch: int = BATCH, side: int = SIDE) -> Tensor:
    return (torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1)) * 0.4).clamp(-1, 1)


def trial(replica: GaussianReplica | None = None, images: Tensor | None = None, **options: object) -> Trial:
    images = random_images() if images is None else images
    captions = ["one", "two words", "a caption of six different words"][: len(images)]
    keys = [f"k{i}" for i in range(len(images))]
    return Trial(replica or GaussianReplica(), images, captions, keys, 7, **options)  # type: ignore[arg-type]


def gain(schedule: Schedule, t: int, variance: float = VARIANCE) -> float:
    """How the Gaussian replica's prediction grows with z."""
    a, s = schedule.alpha(t), schedule.sigma(t)
    return s / (a * a * variance + s * s)
