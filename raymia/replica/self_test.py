"""What a replica predicts, held against diffusers' own pipeline on the same parts: once, when it is loaded.

The pipeline is given the replica's parts and asked for one step; what its denoiser puts out then is what the replica must
predict from the same latents, time and prompts, to rounding. So a family that tells its denoiser something else than diffusers
does, a layout or a compiler that changes what comes out, and weights that put out nothing are found before the first image.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn
from torch.backends import cudnn

from raymia.errors import ConfigError, first_line
from raymia.replica.documents import read_json
from raymia.replica.families import Family, LoadOptions
from raymia.replica.noise import noise_like
from raymia.replica.parts import Parts
from raymia.replica.protocol import Replica

PROMPT, TIMESTEP, SEED = "a photograph of two small boats", 300, 0
SIDE = 8
"""Of the latents, where the model's own are not smaller: a fixed cost, whatever the resolution."""
ROUNDING = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""What two ways to compute the same may differ by, as a share of the result's norm, by dtype."""
SILENT = 1e-5
"""Largest value of an output that counts as none."""


def self_test(replica: Replica, family: Family, parts: Parts, options: LoadOptions) -> None:
    """Refuse a replica whose predictions are not the model's.

    Args:
        replica: that was loaded.
        family: of the model.
        parts: that it was loaded from.
        options: how it is run.

    Raises:
        ConfigError: predictions that are not finite or nothing, or others than those of diffusers or without compiling.
    """
    channels, height, width = replica.latent_shape(options.resolution_px, options.resolution_px)
    latents = noise_like((1, channels, min(height, SIDE), min(width, SIDE)), SEED).to(replica.device)
    t = min(TIMESTEP, replica.schedule.timesteps // 2)
    denoiser = _denoiser(replica, parts)
    pipeline = getattr(diffusers, family.pipelines[0], None) if family.pipelines else None
    reference: tuple[Tensor, Tensor] | None = None
    if pipeline is not None and denoiser is not None and replica.schedule.kind == "variance_preserving":
        # First, so that parts which cannot be run at all are said to be that.
        step = int(replica.schedule.time(t))
        reference = _of_pipeline(pipeline, denoiser, parts, latents, step, options.resolution_px)
    z = latents.expand(2, *latents.shape[1:])
    # Not compiled, which it is for calls without gradients alone: not for a size that no scan has.
    with torch.enable_grad():
        predicted = replica.predicted_noise(z, t, replica.text(["", PROMPT])).detach()
    _require_alive(replica, z, predicted, t, parts)
    if "vae" in parts.loaded:
        _check_autoencoder(replica, parts)
    if reference is not None and denoiser is not None:
        seen, output = reference
        expected = replica.schedule.noise_from_output(output.float(), seen.float(), t)
        what = f"{parts.folder}: diffusers' own {family.pipelines[0]}"
        _require_same(predicted[-len(expected) :], expected, _dtype(denoiser), what)
    if options.compiled:
        _check_compiled(replica, parts, (channels, height, width), predicted.dtype if denoiser is None else _dtype(denoiser))


def _require_alive(replica: Replica, z: Tensor, predicted: Tensor, t: int, parts: Parts) -> None:
    if not bool(torch.isfinite(predicted).all()):
        raise ConfigError(
            f"{parts.folder}: the denoiser's output is not finite; the weights are damaged, or need a wider replica.dtype"
        )
    if replica.schedule.output_from_noise(predicted, z, t).abs().max() < SILENT:
        raise ConfigError(f"{parts.folder}: the denoiser puts out nothing; these are no weights of a trained model")


def _denoiser(replica: Replica, parts: Parts) -> nn.Module | None:
    """The part whose parameters are the replica's."""
    own = next(iter(replica.parameters().values()), None)
    modules = [part for part in parts.loaded.values() if isinstance(part, nn.Module)]
    return next((part for part in modules if next(part.parameters(), None) is own), None)


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def _of_pipeline(
    kind: Any, denoiser: nn.Module, parts: Parts, latents: Tensor, step: int, resolution_px: int
) -> tuple[Tensor, Tensor]:
    """Latents that a pipeline over the replica's parts gives its denoiser, and what that puts out, in the plain layout."""
    calls: list[tuple[Tensor, Tensor]] = []

    def note(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        calls.append(
            (given[0] if given else next(iter(named.values())), output[0] if isinstance(output, tuple) else output.sample)
        )

    hook = denoiser.register_forward_hook(note, with_kwargs=True)
    layout = _in_plain_layout(denoiser)
    try:
        with _asking(kind, parts), cudnn.flags(enabled=True, allow_tf32=False):
            _assembled(kind, parts, step)(
                PROMPT,
                height=resolution_px,
                width=resolution_px,
                num_inference_steps=1,
                guidance_scale=2.0,
                latents=latents.to(_dtype(denoiser)),
                output_type="latent",
            )
    finally:
        hook.remove()
        denoiser.to(memory_format=layout)
    return calls[0]


@contextmanager
def _asking(kind: Any, parts: Parts) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Whatever diffusers' pipeline makes of the parts.
        raise ConfigError(
            f"{parts.folder}: diffusers' own {kind.__name__} cannot run it ({type(error).__name__}: {first_line(error)}), "
            "so that nothing tells whether its scores are right"
        ) from error


def _in_plain_layout(module: nn.Module) -> torch.memory_format:
    """Bring a module's weights into the plain layout; return the one that they had."""
    weights = [one for one in module.parameters() if one.dim() == 4 and min(one.shape) > 1]
    last = bool(weights) and all(one.is_contiguous(memory_format=torch.channels_last) for one in weights)
    module.to(memory_format=torch.contiguous_format)
    return torch.channels_last if last else torch.contiguous_format


def _check_autoencoder(replica: Replica, parts: Parts) -> None:
    """Compare latents with those that diffusers' image pipelines make: the mode of the posterior, scaled by the config."""
    vae = parts.loaded["vae"]
    side = SIDE * 2 ** (len(vae.config.block_out_channels) - 1)
    images = noise_like((1, 3, side, side), SEED).clamp(-1, 1).to(replica.device)
    found = replica.encode(images)
    decoded = replica.decode(found)
    layout = _in_plain_layout(vae)
    with torch.no_grad():
        mode = vae.encode(images).latent_dist.mode() - (vae.config.shift_factor or 0.0)
    vae.to(memory_format=layout)
    if not bool(torch.isfinite(found).all() and torch.isfinite(decoded).all()):
        raise ConfigError(f"{parts.folder}/vae: its latents or images are not finite; the weights are damaged")
    _require_same(found, mode * vae.config.scaling_factor, torch.float32, f"{parts.folder}: diffusers' own autoencoder")


def _assembled(kind: Any, parts: Parts, step: int) -> Any:
    """A pipeline of the loaded parts that makes its one step at a step of the model."""
    taken = inspect.signature(kind.__init__).parameters.values()
    index = read_json(parts.folder / "model_index.json")
    flags = {one.name: index[one.name] for one in taken if isinstance(index.get(one.name), bool | int | float)}
    needed = {one.name: None for one in taken if one.default is inspect.Parameter.empty and one.name != "self"}
    given = {one.name: parts.loaded[one.name] for one in taken if one.name in parts.loaded}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fields that old configs lack, which nothing here depends on
        pipeline = kind(**{**needed, **given, **flags, "scheduler": DDIMScheduler(clip_sample=False, steps_offset=1)})
    # Not before: some pipelines replace what they take for an old scheduler's offset.
    pipeline.scheduler = DDIMScheduler(
        num_train_timesteps=max(1000, step + 1), clip_sample=False, steps_offset=step, timestep_spacing="leading"
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _check_compiled(replica: Replica, parts: Parts, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Compare a compiled denoiser with itself as it is called for gradients, in a call of the size that scans make."""
    count, t = replica.denoiser_batch, min(TIMESTEP, replica.schedule.timesteps // 2)
    z = noise_like((1, *shape), SEED).to(replica.device).expand(count, *shape)
    told = replica.text([""]).expand(count)
    with torch.no_grad():
        try:
            compiled = replica.predicted_noise(z, t, told)
        except RuntimeError as error:
            raise ConfigError(
                f"replica.compile: {parts.folder} cannot be compiled ({first_line(error)}); leave it out"
            ) from error
    with torch.enable_grad():
        plain = replica.predicted_noise(z, t, told).detach()
    _require_same(compiled, plain, dtype, f"replica.compile: the same model uncompiled, {parts.folder},")


def _require_same(found: Tensor, expected: Tensor, dtype: torch.dtype, what: str) -> None:
    if found.shape != expected.shape:
        raise ConfigError(f"{what} gives the shape {tuple(expected.shape)}, and the replica {tuple(found.shape)}")
    difference = float((found.double() - expected.double()).norm() / expected.double().norm())
    if not difference <= ROUNDING.get(dtype, ROUNDING[torch.float32]):
        raise ConfigError(
            f"{what} gives something else than the replica: they differ by {difference:.2g} of it, where rounding gives "
            f"{ROUNDING.get(dtype, ROUNDING[torch.float32]):.2g} at most; such a model is not scored"
        )
