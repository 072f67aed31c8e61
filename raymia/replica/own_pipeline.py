"""diffusers' own pipeline over a replica's parts, asked for one step: what it sees and what it makes of that."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from raymia.errors import ConfigError, first_line
from raymia.replica.documents import read_json
from raymia.replica.parts import Parts, weight_stems
from raymia.replica.schedule import Schedule
from raymia.replica.tensors import new_part

PROMPT, SEED = "a photograph of two small boats", 0


def _as_they_are(latents: Tensor, height: int, width: int) -> Tensor:
    return latents


@dataclass(frozen=True)
class OneStep:
    """How a family's own pipeline is asked for one step.

    Attributes:
        arguments: of the pipeline's call, beside the number of steps and the generator.
        prompts: what the replica is told to predict the same: one; or two and a `guidance`, the unconditional one first.
        guidance: from the first prompt's prediction towards the second's.
        unpacked: the pipeline's latents as (batch, c, h, w), of those that are packed for the denoiser; takes them, h and w.
    """

    arguments: Mapping[str, Any]
    prompts: Sequence[str]
    guidance: float = 1.0
    unpacked: Callable[[Tensor, int, int], Tensor] = _as_they_are


def guided_step(height: int, width: int) -> OneStep:
    """What most pipelines take: a prompt, a size in px, and a guidance scale."""
    arguments = {"prompt": PROMPT, "height": height, "width": width, "guidance_scale": 2.0, "output_type": "latent"}
    return OneStep(arguments, ("", PROMPT), 2.0)


class _Taken(Exception):  # noqa: N818 - it ends the pipeline once enough is known
    def __init__(self, sample: Tensor, output: Tensor) -> None:
        super().__init__()
        self.sample, self.output = sample, output


def ask(
    kind: Any, parts: Parts, schedule: Schedule, t: int, asked: OneStep, texts: Sequence[Any] | None = None
) -> tuple[Tensor, Tensor]:
    """Latents that a pipeline would move, and the output that it would move them by, in the pipeline's own layout.

    Args:
        kind: the pipeline's class.
        parts: that the replica was loaded from.
        schedule: the replica's.
        t: timestep as jobs name it.
        asked: what the pipeline is called with.
        texts: what `encoded` gave, where the parts have no text encoders.

    Raises:
        ConfigError: the pipeline cannot be run.
    """
    pipeline = assembled(kind, parts)
    if texts is not None:
        given = iter(texts)
        pipeline.encode_prompt = lambda *_, **__: next(given)
    # Not before: some pipelines replace what they take for an old scheduler's offset.
    pipeline.scheduler = _standing_still(schedule, t)
    pipeline.set_progress_bar_config(disable=True)
    with _naming(kind, parts):
        try:
            pipeline(**asked.arguments, num_inference_steps=1, generator=torch.Generator("cpu").manual_seed(SEED))
        except _Taken as taken:
            return taken.sample, taken.output
        raise ValueError("it asks its scheduler for no step")


class _Reached(Exception):  # noqa: N818 - it ends the pipeline once all texts are encoded
    pass


def encoded(kind: Any, parts: Parts, schedule: Schedule, t: int, asked: OneStep, device: torch.device) -> list[Any]:
    """What a pipeline's own `encode_prompt` gives, call by call, where the text encoders are loaded and the denoiser is not.

    Args:
        kind, parts, schedule, t, asked: see `ask`.
        device: of the text encoders.

    Raises:
        ConfigError: the pipeline cannot be run as far as that.
    """
    whole = Parts(parts.folder, parts.declared)
    whole.loaded.update(parts.loaded)
    with torch.device("meta"):
        hollow = {part: new_part(whole, part) for part in weight_stems(parts.declared) if part not in parts.loaded}
    whole.loaded.update(hollow)
    # Of parts on several devices a pipeline takes the first one's.
    there = type(kind.__name__, (kind,), {"_execution_device": device, "device": device})
    pipeline = assembled(there, whole)
    pipeline.scheduler = _standing_still(schedule, t)
    pipeline.set_progress_bar_config(disable=True)
    results: list[Any] = []

    def noted(*given: Any, **named: Any) -> Any:
        results.append(kind.encode_prompt(pipeline, *given, **named))
        return results[-1]

    def reached(*_: Any) -> None:
        raise _Reached

    pipeline.encode_prompt = noted
    for part in hollow.values():
        part.register_forward_pre_hook(reached)
    with _naming(kind, parts), torch.no_grad():
        try:
            pipeline(**asked.arguments, num_inference_steps=1, generator=torch.Generator("cpu").manual_seed(SEED))
        except _Reached:
            return results
        raise ValueError("it asks its denoiser for nothing")


def _standing_still(schedule: Schedule, t: int) -> Any:
    """A scheduler of which a pipeline gets the one timestep, and that takes what the pipeline gives it to step by."""
    time, sigma = schedule.time(t), schedule.sigma(t)
    scheduler: Any
    if schedule.kind == "flow":
        scheduler = FlowMatchEulerDiscreteScheduler()
        steps = (time * scheduler.config.num_train_timesteps)[None]
    else:
        scheduler = DDIMScheduler(num_train_timesteps=max(1000, int(time) + 1), clip_sample=False, steps_offset=1)
        steps = time[None]

    def set_timesteps(
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        timesteps: Any = None,
        mu: float | None = None,
    ) -> None:
        scheduler.num_inference_steps = 1
        scheduler.timesteps = steps.to(device)
        if schedule.kind == "flow":
            scheduler.sigmas = torch.tensor([sigma, 0.0], device=device)

    def step(model_output: Tensor, timestep: Any, sample: Tensor, *_: Any, **__: Any) -> None:
        raise _Taken(sample, model_output)

    scheduler.set_timesteps, scheduler.step = set_timesteps, step
    return scheduler


def assembled(kind: Any, parts: Parts) -> Any:
    """A pipeline of the loaded parts, with a scheduler that is to be replaced."""
    taken = inspect.signature(kind.__init__).parameters.values()
    index = read_json(parts.folder / "model_index.json")
    flags = {one.name: index[one.name] for one in taken if isinstance(index.get(one.name), bool | int | float)}
    needed = {one.name: None for one in taken if one.default is inspect.Parameter.empty and one.name != "self"}
    given = {one.name: parts.loaded[one.name] for one in taken if one.name in parts.loaded}
    with _naming(kind, parts), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fields that old configs lack, which nothing here depends on
        return kind(**{**needed, **given, **flags, "scheduler": DDIMScheduler(clip_sample=False, steps_offset=1)})


@contextmanager
def _naming(kind: Any, parts: Parts) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Whatever diffusers' pipeline makes of the parts.
        raise ConfigError(
            f"{parts.folder}: diffusers' own {kind.__name__} cannot run it ({type(error).__name__}: {first_line(error)}), "
            "so that nothing tells whether its scores are right"
        ) from error
