"""What a ``scheduler_config.json`` says of a model's noise: what its class makes of it, and not what its fields are called.

A sampler's config is mostly about how to sample, which no score depends on. What it says of the noise that the model was
trained on is read with the defaults of the class that it names, and held against the schedule that diffusers' own object has.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from raymia.errors import ConfigError, first_line
from raymia.replica.configs import NOTES
from raymia.replica.documents import read_json

VARIANCE_PRESERVING = (
    "DDIMScheduler",
    "DDIMInverseScheduler",
    "DDIMParallelScheduler",
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)
"""Classes whose models see alpha z_0 + sigma noise with alpha^2 + sigma^2 = 1, at discrete steps."""
FLOW_SHIFTS = {
    "FlowMatchEulerDiscreteScheduler": "shift",
    "FlowMatchHeunDiscreteScheduler": "shift",
    "DPMSolverMultistepScheduler": "flow_shift",
    "UniPCMultistepScheduler": "flow_shift",
}
"""Classes that sample rectified flows, each with the field that says where levels lie; the last two where they are told so."""
FLOW_PREDICTION = "flow_prediction"
NOISE_FIELDS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
"""Fields that the schedule follows from."""
REQUIRED = NOISE_FIELDS[:4]
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "v_prediction")
MAX_STEPS = 10_000
UNBOUNDED = ("lambda_min_clipped",)
"""Fields that solvers save as -Infinity, where they bound nothing."""
UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "use_flow_sigmas": ((None, False), "the model sees another mixture of image and noise"),
    "timestep_type": ((None, "discrete"), "the model is told the logarithm of the noise"),
    "variance_type": (
        (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
        "the model puts out a variance, too",
    ),
    "snr_shift_scale": ((None, 1.0), "the noise is shifted"),
}
"""Fields that may only have these values, and what another one means."""


def read_scheduler(path: Path) -> dict[str, Any]:
    """The contents of a ``scheduler_config.json``, in a pipeline folder or by itself.

    Raises:
        ConfigError: it cannot be read; or ``model_index.json`` names another class, which makes another schedule of it.
    """
    config = read_json(path, UNBOUNDED)
    if not isinstance(config.get("_class_name", ""), str | None):
        raise ConfigError(f"{path}: _class_name is {config['_class_name']!r}; expected the name of a class of diffusers")
    index = path.parent.parent / "model_index.json"
    named = read_json(index).get("scheduler") if index.is_file() else None
    if named is None:
        return config
    if not (isinstance(named, list) and len(named) == 2 and named[0] == "diffusers" and isinstance(named[1], str)):
        raise ConfigError(
            f"{index}: scheduler is {named!r}; expected ['diffusers', 'DDIMScheduler'] or another class of diffusers"
        )
    own = config.setdefault("_class_name", named[1])
    if own != named[1] and _meaning(config, path) != _meaning({**config, "_class_name": named[1]}, path):
        raise ConfigError(
            f"{index}: scheduler is {named[1]}, but {path.name} is of {own} and means another schedule; name one of them"
        )
    return config


def _meaning(config: dict[str, Any], path: Path) -> object:
    if is_flow(config):
        return rectified_flow(config, str(path)).tolist()
    if config["_class_name"] not in VARIANCE_PRESERVING:
        return config["_class_name"]
    alphas_cumprod, prediction_type = variance_preserving(config, str(path))
    return prediction_type, alphas_cumprod.tolist()


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a ``scheduler_config.json`` is of a rectified flow."""
    kind = config.get("_class_name")
    return kind in FLOW_SHIFTS and (FLOW_SHIFTS[kind] == "shift" or config.get("prediction_type") == FLOW_PREDICTION)


def rectified_flow(config: Mapping[str, Any], source: str) -> Tensor:
    """Sigma of each of the model's own steps, from little noise to much; no step is without noise.

    A `shift` says where training puts its steps. Where it depends on the size of the image (dynamic shifting), steps are evenly
    spaced.

    Args:
        config: contents of a ``scheduler_config.json``.
        source: named in errors.

    Raises:
        ConfigError: the class samples no rectified flow, or a field has no meaning that is supported; names it.
    """
    name = config.get("_class_name")
    if not is_flow(config):
        raise ConfigError(f"{source}: a {name}; expected one of {', '.join(FLOW_SHIFTS)} that samples a rectified flow")
    kind = getattr(diffusers, str(name))
    defaults = _defaults(kind)
    for field, value in config.items():
        if value is not None and field not in _flow_fields() and field not in NOTES:
            raise ConfigError(f"{source}: {field} is {value!r}, which a {name} does not know; remove it if it changes nothing")
    if FLOW_SHIFTS[str(name)] == "flow_shift" and not config.get("use_flow_sigmas"):
        raise ConfigError(f"{source}: prediction_type is {FLOW_PREDICTION}, but use_flow_sigmas is not set; set it")
    if config.get("invert_sigmas"):
        raise ConfigError(f"{source}: invert_sigmas: a flow from image to noise is not supported")
    steps = config.get("num_train_timesteps", defaults["num_train_timesteps"])
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MAX_STEPS:
        raise ConfigError(f"{source}: num_train_timesteps is {steps!r}; expected a whole number from 1 to {MAX_STEPS}")
    field = FLOW_SHIFTS[str(name)]
    shift = config.get(field, defaults[field])
    if isinstance(shift, bool) or not isinstance(shift, int | float) or not (math.isfinite(shift) and shift > 0):
        raise ConfigError(f"{source}: {field} is {shift!r}; expected a number above 0")
    dynamic = config.get("use_dynamic_shifting", defaults.get("use_dynamic_shifting", False))
    if dynamic not in (None, True, False):
        raise ConfigError(f"{source}: use_dynamic_shifting is {dynamic!r}; expected true or false")
    sigmas = torch.arange(1, steps + 1, dtype=torch.double) / steps
    return sigmas if dynamic else shift * sigmas / (1.0 + (shift - 1.0) * sigmas)


@lru_cache
def _flow_fields() -> frozenset[str]:
    """Fields that any of the classes of flows knows."""
    return frozenset().union(*(_defaults(getattr(diffusers, name)) for name in FLOW_SHIFTS))


def variance_preserving(config: Mapping[str, Any], source: str) -> tuple[Tensor, str]:
    """Cumulative products of 1 - beta, one for each step, and what the model puts out.

    Args:
        config: contents of a ``scheduler_config.json``; without a class it must say all of the schedule itself.
        source: named in errors.

    Raises:
        ConfigError: the class or a field has no variance-preserving schedule that is supported; names it.
    """
    kind, defaults = _class_of(config, source)
    _check_fields(config, defaults, source)
    settled = {field: config.get(field, defaults.get(field)) for field in NOISE_FIELDS}
    prediction_type = config.get("prediction_type", defaults.get("prediction_type", "epsilon"))
    if prediction_type not in PREDICTION_TYPES:
        raise ConfigError(f"{source}: prediction_type {prediction_type!r}; supported are {', '.join(PREDICTION_TYPES)}")
    _check_numbers(settled, source)
    found = _computed(DDIMScheduler, {**settled, "rescale_betas_zero_snr": bool(settled["rescale_betas_zero_snr"])}, source)
    if not bool(((found >= 0) & (found < 1)).all()) or not bool((found.diff() <= 0).all()):
        raise ConfigError(f"{source}: its betas are no shares of noise; expected 0 < beta_start and beta_end < 1")
    if kind is not None:
        of_class = _computed(kind, {field: value for field, value in settled.items() if field in defaults}, source)
        # Some classes put a small number in the place of the last one, where that is zero.
        if found.shape != of_class.shape or not torch.allclose(found, of_class, rtol=1e-5, atol=1e-6):
            raise ConfigError(f"{source}: {kind.__name__} makes another schedule of it; save it as a DDIMScheduler")
    return found, prediction_type


def _class_of(config: Mapping[str, Any], source: str) -> tuple[Any, dict[str, Any]]:
    """The class that a config names, where it is installed, and what it takes for fields that the config leaves out."""
    name = config.get("_class_name")
    if name is not None and name not in VARIANCE_PRESERVING:
        raise ConfigError(f"{source}: a {name} is not supported; expected one of {', '.join(VARIANCE_PRESERVING)}")
    kind = None if name is None else getattr(diffusers, name, None)
    defaults = {} if kind is None else _defaults(kind)
    if "num_train_timesteps" not in defaults:  # its class needs a library that is not installed
        kind, defaults = None, {}
        missing = [field for field in REQUIRED if field not in config]
        if missing:
            raise ConfigError(
                f"{source}: no {' or '.join(missing)}; expected the config of a discrete-time scheduler such as DDIM or PNDM"
            )
    return kind, defaults


@lru_cache
def _known_fields() -> frozenset[str]:
    """Fields that any of the classes knows: made from another's config, a config keeps the other's."""
    kinds = [getattr(diffusers, name, None) for name in VARIANCE_PRESERVING]
    return frozenset().union(*(_defaults(kind) for kind in kinds if kind is not None)) | {"snr_shift_scale"}


def _defaults(kind: Any) -> dict[str, Any]:
    parameters = inspect.signature(kind.__init__).parameters.values()
    return {one.name: one.default for one in parameters if one.name not in ("self", "args", "kwargs")}


def _check_fields(config: Mapping[str, Any], defaults: Mapping[str, Any], source: str) -> None:
    for field, (supported, meaning) in UNSUPPORTED.items():
        if config.get(field) not in supported:
            raise ConfigError(f"{source}: {field} is {config[field]!r}: {meaning}, which is not supported")
    for field, value in config.items():
        if value is not None and field not in _known_fields() and field not in NOTES:
            raise ConfigError(
                f"{source}: {field} is {value!r}, which no supported scheduler knows; remove it if it changes nothing"
            )
    if config.get("rescale_betas_zero_snr") and defaults and "rescale_betas_zero_snr" not in defaults:
        raise ConfigError(
            f"{source}: rescale_betas_zero_snr is set, but a {config['_class_name']} does not rescale; name a class that does"
        )


def _check_numbers(settled: Mapping[str, Any], source: str) -> None:
    steps, betas = settled["num_train_timesteps"], settled["trained_betas"]
    if settled["rescale_betas_zero_snr"] not in (None, True, False):
        raise ConfigError(f"{source}: rescale_betas_zero_snr is {settled['rescale_betas_zero_snr']!r}; expected true or false")
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MAX_STEPS:
        raise ConfigError(f"{source}: num_train_timesteps is {steps!r}; expected a whole number from 1 to {MAX_STEPS}")
    if betas is not None:
        if not isinstance(betas, list) or len(betas) != steps or not all(_share(beta) for beta in betas):
            raise ConfigError(f"{source}: trained_betas: expected {steps} numbers between 0 and 1, one for each timestep")
        return
    if settled["beta_schedule"] not in BETA_SCHEDULES:
        raise ConfigError(f"{source}: beta_schedule {settled['beta_schedule']!r}; supported are {', '.join(BETA_SCHEDULES)}")
    for field in ("beta_start", "beta_end"):
        if not _share(settled[field]):
            raise ConfigError(f"{source}: {field} is {settled[field]!r}; expected a number between 0 and 1")


def _share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 < value < 1


def _computed(kind: Any, fields: dict[str, Any], source: str) -> Tensor:
    try:
        found: Tensor = kind(**fields).alphas_cumprod.double()
    except Exception as error:
        # Whatever diffusers makes of somebody else's config.
        raise ConfigError(f"{source}: no {kind.__name__} can be made of it ({first_line(error)})") from error
    return found
