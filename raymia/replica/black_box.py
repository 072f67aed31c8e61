"""All that a black-box attack may ask of a model: images from images, and images from text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from raymia.replica.shared import SharedReplica, stacked_noise


class BlackBox(Protocol):
    """A service that makes images; a hosted one can stand behind it. Images are in [-1, 1], seeds one per image."""

    def image_to_image(
        self,
        images: Float[Tensor, "batch 3 H W"],
        prompts: Sequence[str],
        strength: float,
        steps: int,
        guidance: float,
        seeds: Sequence[int],
    ) -> Float[Tensor, "batch 3 H W"]:
        """Noise the images and denoise them again.

        Args:
            strength: noise level as a share of the schedule, 0 to 1; at 0 the image only passes the autoencoder.
            steps: denoising steps that are made.
            guidance: classifier-free guidance scale; 1 is none.
        """
        ...

    def text_to_image(
        self, prompts: Sequence[str], height: int, width: int, steps: int, guidance: float, seeds: Sequence[int]
    ) -> Float[Tensor, "batch 3 H W"]:
        """Images of `height` x `width` px for the prompts."""
        ...


class LocalPipeline:
    """The interface over a replica, with deterministic DDIM steps (eta 0)."""

    def __init__(self, model: SharedReplica) -> None:
        self._model = model

    def image_to_image(
        self,
        images: Float[Tensor, "batch 3 H W"],
        prompts: Sequence[str],
        strength: float,
        steps: int,
        guidance: float,
        seeds: Sequence[int],
    ) -> Float[Tensor, "batch 3 H W"]:
        """From the latents noised to t = strength x timesteps, over t, t (steps-1)/steps, .., t/steps, to clean latents."""
        z0 = self._model.encode(images)
        t = round(strength * self._model.schedule.timesteps)
        if t == 0:
            return self._model.decode(z0)
        visited = [round(t * (steps - i) / steps) for i in range(steps)]
        return self._denoise(self._model.noisy(z0, tuple(seeds), t), visited, prompts, guidance)

    def text_to_image(
        self, prompts: Sequence[str], height: int, width: int, steps: int, guidance: float, seeds: Sequence[int]
    ) -> Float[Tensor, "batch 3 H W"]:
        """From pure noise over `steps` evenly spaced timesteps, the first a stride below the end of the schedule.

        That is the `leading` spacing of Stable Diffusion's own sampler, whose first timestep still holds some signal.
        """
        stride = self._model.schedule.timesteps // steps
        visited = [i * stride + 1 for i in reversed(range(steps))]
        noise = stacked_noise(self._model.latent_shape(height, width), seeds, self._model.device)
        return self._denoise(noise, visited, prompts, guidance)

    def _denoise(self, z: Tensor, visited: list[int], prompts: Sequence[str], guidance: float) -> Tensor:
        schedule = self._model.schedule
        states, empty = self._model.text(prompts), self._model.text([""] * len(prompts))
        for now, following in pairwise(visited):
            z = schedule.ddim_move(z, self._model.guided_noise(z, now, states, empty, guidance), now, following)
        last = visited[-1]
        noise = self._model.guided_noise(z, last, states, empty, guidance)
        return self._model.decode(schedule.clean_from_noise(z, noise, last))
