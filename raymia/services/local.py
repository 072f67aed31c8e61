"""The service on this machine: the pipeline of a loaded model, asked for images alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, get_args

from jaxtyping import Float
from torch import Tensor

from raymia.errors import ConfigError
from raymia.replica.noise import stacked_noise
from raymia.replica.schedule import clean_from_noise, ddim_move
from raymia.services.protocol import BlackBox, Capability, LocalModel, Queries, Service, Surroundings


class Local(Service):
    """What black-box attacks ask where a job names a model: deterministic DDIM steps (eta 0) over its own replica."""

    name: ClassVar = "local"
    title: ClassVar = "the attacked model's own pipeline on this machine, which a job with `replica.model` gets by itself"
    capabilities: ClassVar = frozenset(get_args(Capability))

    service: str = "local"

    def open(self, model: LocalModel | None, surroundings: Surroundings) -> BlackBox:
        if model is None:
            raise ConfigError("replica.service: local: name the model instead: replica: {model: ..}; black-box attacks ask it")
        return LocalPipeline(model)


class LocalPipeline:
    """See `raymia.services.protocol.BlackBox`."""

    def __init__(self, model: LocalModel) -> None:
        """Take a loaded model."""
        self._model = model

    def answer(self, queries: Queries) -> Float[Tensor, "batch 3 H W"]:
        """See `raymia.services.protocol.BlackBox.answer`."""
        if queries.images is None:
            return self._from_text(queries)
        return self._from_images(queries, queries.images, queries.strength or 0.0)

    def _from_images(self, queries: Queries, images: Tensor, strength: float) -> Tensor:
        """From the latents noised to t = strength x timesteps, over t, t (steps-1)/steps, .., t/steps, to clean latents."""
        z0 = self._model.encode(images)
        t = round(strength * self._model.schedule.timesteps)
        if t == 0:
            return self._model.decode(z0)
        steps, guidance = _said(queries)
        visited = [round(t * (steps - i) / steps) for i in range(steps)]
        return self._denoise(self._model.noisy(z0, tuple(queries.seeds), t), visited, queries.prompts, guidance)

    def _from_text(self, queries: Queries) -> Tensor:
        """From pure noise over `steps` evenly spaced timesteps, the first a stride below the end of the schedule.

        That is the `leading` spacing of Stable Diffusion's own sampler, whose first timestep still holds some signal.
        """
        steps, guidance = _said(queries)
        stride = self._model.schedule.timesteps // steps
        visited = [i * stride + 1 for i in reversed(range(steps))]
        shape = self._model.latent_shape(queries.height, queries.width)
        noise = stacked_noise(shape, queries.seeds, self._model.device)
        return self._denoise(noise, visited, queries.prompts, guidance)

    def _denoise(self, z: Tensor, visited: list[int], prompts: Sequence[str], guidance: float) -> Tensor:
        schedule = self._model.schedule
        caption, empty = self._model.text(prompts), self._model.text([""] * len(prompts))
        for now, following in pairwise(visited):
            z = ddim_move(schedule, z, self._model.guided_noise(z, now, caption, empty, guidance), now, following)
        last = visited[-1]
        noise = self._model.guided_noise(z, last, caption, empty, guidance)
        return self._model.decode(clean_from_noise(schedule, z, noise, last))


def _said(queries: Queries) -> tuple[int, float]:
    """Steps and guidance, which a model of ours has none of its own of."""
    if queries.steps is None or queries.guidance is None:
        raise ValueError("steps and guidance: a model has none of its own; null is for services")
    return queries.steps, queries.guidance
