"""What a replica predicts, held against diffusers' own pipeline on the same parts: once, when it is loaded.

The pipeline is given the replica's parts and asked for one step; what its denoiser puts out then is what the replica must
predict from the same latents, time and prompts, to rounding. So a family that tells its denoiser something else than diffusers
does, a layout or a compiler that changes what comes out, and weights that put out nothing are found before the first image.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import diffusers
import torch
from torch import Tensor, nn
from torch.backends import cudnn

from raymia.errors import ConfigError, first_line
from raymia.replica.families import Family, LoadOptions
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.replica.noise import noise_like
from raymia.replica.own_pipeline import PROMPT, OneStep, ask, encoded
from raymia.replica.parts import Parts
from raymia.replica.protocol import Replica
from raymia.replica.staged_text import StagedText

TIMESTEP, SEED = 300, 0
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
    side = options.resolution_px
    channels, height, width = shape = replica.latent_shape(side, side)
    rows, columns = min(height, SIDE), min(width, SIDE)
    t = min(TIMESTEP, replica.schedule.timesteps // 2)
    denoiser = _denoiser(replica, parts)
    dtype = torch.float32 if denoiser is None else next(denoiser.parameters()).dtype
    pipeline = getattr(diffusers, family.pipelines[0], None) if family.pipelines else None
    if pipeline is not None and denoiser is not None:
        # First, so that parts which cannot be run at all are said to be that.
        asked = _asked(family, parts, options, height, width)
        texts = None if options.staged is None else options.staged.own(replica.device)
        with _text_at_hand(replica):
            z, output = _of_pipeline(pipeline, denoiser, parts, replica, t, asked, texts)
        z, output = (asked.unpacked(one.float(), rows, columns) for one in (z, output))
        expected = replica.schedule.noise_from_output(output, z, t)
        prompts = list(asked.prompts)
    else:
        z = noise_like((1, channels, rows, columns), SEED).to(replica.device)
        expected, prompts = None, [""]
    # Not compiled, which it is for calls without gradients alone: not for a size that no scan has.
    with torch.enable_grad():
        predicted = replica.predicted_noise(z.expand(len(prompts), *z.shape[1:]), t, replica.text(prompts)).detach()
    _require_alive(replica, z.expand_as(predicted), predicted, t, parts)
    if family.autoencoder in parts.loaded:
        _check_autoencoder(replica, parts, family.autoencoder, SIDE * (side // height))
    if expected is not None:
        guided = predicted[:1] + asked.guidance * (predicted[-1:] - predicted[:1])
        _require_same(guided, expected, dtype, f"{parts.folder}: diffusers' own {family.pipelines[0]}")
    if options.compiled:
        _check_compiled(replica, parts, shape, dtype)


def keep_texts(encoders: Replica, family: Family, parts: Parts, options: LoadOptions, kept: StagedText) -> None:
    """Keep what `self_test` needs of text encoders, for a replica that has none.

    Args:
        encoders: text encoders alone.
        family: of the model.
        parts: that they were loaded from.
        options: how the replica will be run.
        kept: where to.

    Raises:
        ConfigError: diffusers' own pipeline cannot encode a prompt with them.
    """
    pipeline = getattr(diffusers, family.pipelines[0], None) if family.pipelines else None
    prompts = [""]
    if pipeline is not None:
        side = options.resolution_px
        _, height, width = family.latent_shape(parts.folder, side)
        asked = _asked(family, parts, options, height, width)
        t = min(TIMESTEP, encoders.schedule.timesteps // 2)
        kept.keep_own(encoded(pipeline, parts, encoders.schedule, t, asked, encoders.device))
        prompts = list(dict.fromkeys([*prompts, *asked.prompts]))
    kept.keep(prompts, encoders.text(prompts))


def _asked(family: Family, parts: Parts, options: LoadOptions, height: int, width: int) -> OneStep:
    """A step at latents of a fixed size, or the model's own of that height and width where they are smaller."""
    px = options.resolution_px // height
    return family.own_step(parts.folder, options, min(height, SIDE) * px, min(width, SIDE) * px)


def _require_alive(replica: Replica, z: Tensor, predicted: Tensor, t: int, parts: Parts) -> None:
    if not bool(torch.isfinite(predicted).all()):
        raise ConfigError(
            f"{parts.folder}: the denoiser's output is not finite; the weights are damaged, or need a wider replica.dtype"
        )
    if replica.schedule.output_from_noise(predicted, z, t).abs().max() < SILENT:
        raise ConfigError(f"{parts.folder}: the denoiser puts out nothing; these are no weights of a trained model")


def require_changed(replica: Replica, parts: Parts, options: LoadOptions) -> None:
    """Refuse adapters that change nothing.

    Args:
        replica: with the adapters.
        parts, options: that it was loaded from and by.

    Raises:
        ConfigError: its predictions are those of the base; names the files.
    """
    assert isinstance(replica, LatentDiffusion)
    side, t = options.resolution_px, min(TIMESTEP, replica.schedule.timesteps // 2)
    channels, height, width = replica.latent_shape(side, side)
    z = noise_like((1, channels, min(height, SIDE), min(width, SIDE)), SEED).to(replica.device)
    with torch.no_grad():
        prompt = " ".join([PROMPT, *replica.words()])
        tuned = replica.predicted_noise(z, t, replica.text([prompt]))
        with replica.without_adapters():
            base = replica.predicted_noise(z, t, replica.text([prompt]))
    if torch.equal(tuned, base):
        files = ", ".join(str(adapter.file) for adapter in options.adapters)
        raise ConfigError(f"{files}: changes nothing on {parts.folder}: every prediction is the base's; it was not trained")


def _denoiser(replica: Replica, parts: Parts) -> nn.Module | None:
    """The part whose parameters are the replica's."""
    own = next(iter(replica.parameters().values()), None)
    modules = [part for part in parts.loaded.values() if isinstance(part, nn.Module)]
    return next((part for part in modules if next(part.parameters(), None) is own), None)


def _of_pipeline(
    kind: Any, denoiser: nn.Module, parts: Parts, replica: Replica, t: int, asked: OneStep, texts: Sequence[Any] | None
) -> tuple[Tensor, Tensor]:
    """See `raymia.replica.own_pipeline.ask`, of a denoiser in the plain layout."""
    layout = _in_plain_layout(denoiser)
    hook = denoiser.register_forward_pre_hook(_in_own_dtype)
    try:
        with cudnn.flags(enabled=True, allow_tf32=False):
            return ask(kind, parts, replica.schedule, t, asked, texts)
    finally:
        hook.remove()
        denoiser.to(memory_format=layout)


def _text_at_hand(replica: Replica) -> AbstractContextManager[None]:
    """With the text encoders on the replica's device, which the pipeline runs on."""
    return replica.text_encoders_at_hand() if isinstance(replica, LatentDiffusion) else nullcontext()


def _in_own_dtype(denoiser: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Latents in the denoiser's dtype, which some pipelines make in float32 whatever it is."""
    if not (given and isinstance(given[0], Tensor)):
        return given
    return (given[0].to(next(denoiser.parameters()).dtype), *given[1:])


def _in_plain_layout(module: nn.Module) -> torch.memory_format:
    """Bring a module's weights into the plain layout; return the one that they had."""
    weights = [one for one in module.parameters() if one.dim() == 4 and min(one.shape) > 1]
    last = bool(weights) and all(one.is_contiguous(memory_format=torch.channels_last) for one in weights)
    module.to(memory_format=torch.contiguous_format)
    return torch.channels_last if last else torch.contiguous_format


def _check_autoencoder(replica: Replica, parts: Parts, part: str, side: int) -> None:
    """Compare latents with those that diffusers' image pipelines make: the mode of the posterior, scaled by the config.

    Of an autoencoder of another class alone whether what it makes is finite and of the size that its config says.

    Args:
        replica, parts: of the model.
        part: the autoencoder.
        side: of the images, in px.
    """
    vae = parts.loaded[part]
    images = noise_like((1, 3, side, side), SEED).clamp(-1, 1).to(replica.device)
    # TF32 convolutions, which a GPU's autoencoder may compute in, round as much as a wrong autoencoder may differ by.
    with cudnn.flags(enabled=True, allow_tf32=False):
        found = replica.encode(images)
        decoded = replica.decode(found)
    expected = replica.latent_shape(side, side)
    if tuple(found.shape[1:]) != expected:
        raise ConfigError(
            f"{parts.folder}/{part}: makes latents of {tuple(found.shape[1:])} of an image of {side} px; expected {expected} "
            "by its config"
        )
    if not bool(torch.isfinite(found).all() and torch.isfinite(decoded).all()):
        raise ConfigError(f"{parts.folder}/{part}: its latents or images are not finite; the weights are damaged")
    if not isinstance(vae, diffusers.AutoencoderKL):
        return
    layout = _in_plain_layout(vae)
    with torch.no_grad(), cudnn.flags(enabled=True, allow_tf32=False):
        mode = vae.encode(images).latent_dist.mode() - (vae.config.shift_factor or 0.0)
    vae.to(memory_format=layout)
    _require_same(found, mode * vae.config.scaling_factor, torch.float32, f"{parts.folder}: diffusers' own autoencoder")


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
