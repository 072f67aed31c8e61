"""What scheduler configs mean, against the objects that diffusers makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from raymia.errors import ConfigError
from raymia.replica.folder import find_pipeline
from raymia.replica.schedule import STABLE_DIFFUSION_1, Flow, VariancePreserving
from raymia.replica.scheduler_config import VARIANCE_PRESERVING, variance_preserving
from tests.replica.damaged import change, copied, drop

SCHEDULER = "scheduler/scheduler_config.json"
INSTALLED = [
    name for name in VARIANCE_PRESERVING if "num_train_timesteps" in DDIMScheduler._get_init_keys(getattr(diffusers, name))
]
"""Without those that need a library which is not there."""


def saved(scheduler: Any) -> dict[str, Any]:
    """What diffusers writes of a scheduler."""
    content: dict[str, Any] = json.loads(scheduler.to_json_string())
    return content


@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "v_prediction"},
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 400},
        {"num_train_timesteps": 3, "trained_betas": [0.1, 0.2, 0.3]},
    ],
)
def test_a_schedule_is_that_of_the_schedulers_own_object(name: str, options: dict[str, Any]) -> None:
    scheduler = getattr(diffusers, name)(**options)
    expected = scheduler.alphas_cumprod.double()
    for config in (saved(scheduler), {"_class_name": name, **options}):  # all fields, and what the class is left to fill in
        schedule = VariancePreserving(config, naming="own")
        assert schedule.timesteps == len(expected)
        assert schedule.prediction_type == options.get("prediction_type", "epsilon")
        found = torch.tensor([schedule.alpha(t) for t in range(schedule.timesteps)], dtype=torch.double) ** 2
        assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    "name", [name for name in INSTALLED if "rescale_betas_zero_snr" in DDIMScheduler._get_init_keys(getattr(diffusers, name))]
)
def test_a_terminal_step_without_signal_is_none_in_every_class(name: str) -> None:
    scheduler = getattr(diffusers, name)(**STABLE_DIFFUSION_1, rescale_betas_zero_snr=True)
    schedule = VariancePreserving(saved(scheduler), naming="own")
    found = torch.tensor([schedule.alpha(t) for t in range(999)], dtype=torch.double) ** 2
    assert torch.allclose(found, scheduler.alphas_cumprod[:-1].double(), atol=1e-6)
    with pytest.raises(ConfigError, match="timestep 999 is pure noise"):
        schedule.check(999)


def test_lcm_and_tcd_configs_are_filled_in_by_their_own_classes() -> None:
    for name in ("LCMScheduler", "TCDScheduler"):
        found, _ = variance_preserving(
            {"_class_name": name, "num_train_timesteps": 1000, "beta_schedule": "scaled_linear"}, name
        )
        assert torch.equal(found, DDIMScheduler(**STABLE_DIFFUSION_1).alphas_cumprod.double())
        assert not torch.allclose(found, DDIMScheduler(beta_schedule="scaled_linear").alphas_cumprod.double(), atol=0.05)


def test_fields_of_sampling_change_nothing() -> None:
    plain, _ = variance_preserving({"_class_name": "DDIMScheduler", **STABLE_DIFFUSION_1}, "plain")
    sampling = {
        "timestep_spacing": "trailing",
        "steps_offset": 7,
        "clip_sample": True,
        "use_karras_sigmas": True,
        "skip_prk_steps": True,
    }
    found, _ = variance_preserving({"_class_name": "EulerDiscreteScheduler", **STABLE_DIFFUSION_1, **sampling}, "sampling")
    assert torch.equal(found, plain)


def made_of_ddim(name: str) -> dict[str, Any]:
    """The config of a class, made from DDIM's: the beta fields still stand in it."""
    return saved(getattr(diffusers, name).from_config(DDIMScheduler(**STABLE_DIFFUSION_1).config))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            made_of_ddim("FlowMatchEulerDiscreteScheduler"),
            "a FlowMatchEulerDiscreteScheduler is not supported; expected one of DDIM",
        ),
        (made_of_ddim("CMStochasticIterativeScheduler"), "a CMStochasticIterativeScheduler is not supported"),
        (made_of_ddim("EDMEulerScheduler"), "a EDMEulerScheduler is not supported"),
        (made_of_ddim("EDMDPMSolverMultistepScheduler"), "a EDMDPMSolverMultistepScheduler is not supported"),
        ({"_class_name": "MyScheduler", **STABLE_DIFFUSION_1}, "a MyScheduler is not supported"),
        ({"_class_name": ["my_scheduler", "MyScheduler"], **STABLE_DIFFUSION_1}, "MyScheduler.* is not supported"),
        ({"_class_name": "UniPCMultistepScheduler", **STABLE_DIFFUSION_1, "use_flow_sigmas": True}, "use_flow_sigmas is True"),
        ({"_class_name": "DDIMScheduler", **STABLE_DIFFUSION_1, "use_flow_sigmas": True}, "use_flow_sigmas is True"),
        ({"_class_name": "EulerDiscreteScheduler", **STABLE_DIFFUSION_1, "timestep_type": "continuous"}, "told the logarithm"),
        ({"_class_name": "DDPMScheduler", **STABLE_DIFFUSION_1, "variance_type": "learned_range"}, "puts out a variance"),
        ({"_class_name": "DDIMScheduler", **STABLE_DIFFUSION_1, "snr_shift_scale": 3.0}, "snr_shift_scale is 3.0"),
        ({"_class_name": "DDIMScheduler", **STABLE_DIFFUSION_1, "prediction_type": "sample"}, "prediction_type 'sample'"),
        ({"_class_name": "DDIMScheduler", **STABLE_DIFFUSION_1, "prediction_type": None}, "prediction_type None"),
        ({"_class_name": "DDIMScheduler", **STABLE_DIFFUSION_1, "prediction_type": []}, r"prediction_type \[\]"),
        (
            {"_class_name": "DDIMScheduler", **STABLE_DIFFUSION_1, "rescale_betas_zero_snr": "no"},
            "rescale_betas_zero_snr is 'no'",
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler", **STABLE_DIFFUSION_1, "prediction_type": "flow_prediction"},
            "'flow_predic",
        ),
        (
            {"_class_name": "PNDMScheduler", **STABLE_DIFFUSION_1, "rescale_betas_zero_snr": True},
            "a PNDMScheduler does not rescale",
        ),
        ({"_class_name": "DDIMScheduler", **STABLE_DIFFUSION_1, "_use_default_values": ["beta_end"]}, "_use_default_values is"),
        (
            {"_class_name": "DDIMScheduler", **STABLE_DIFFUSION_1, "noise_offset": 0.1},
            "noise_offset is 0.1, which no supported",
        ),
        (
            {**STABLE_DIFFUSION_1, "_class_name": "DDPMScheduler", "beta_schedule": "sigmoid"},
            "beta_schedule 'sigmoid'; supported",
        ),
        ({**STABLE_DIFFUSION_1, "_class_name": "DDIMScheduler", "beta_schedule": None}, "beta_schedule None"),
        (
            {**STABLE_DIFFUSION_1, "_class_name": "DDIMScheduler", "num_train_timesteps": 0},
            "num_train_timesteps is 0; expected",
        ),
        ({**STABLE_DIFFUSION_1, "_class_name": "DDIMScheduler", "num_train_timesteps": 10**12}, "from 1 to 10000"),
        ({**STABLE_DIFFUSION_1, "_class_name": "DDIMScheduler", "num_train_timesteps": "1000"}, "is '1000'; expected a whole"),
        ({**STABLE_DIFFUSION_1, "_class_name": "DDIMScheduler", "beta_end": 2.0}, "beta_end is 2.0; expected a number between"),
        ({**STABLE_DIFFUSION_1, "_class_name": "DDIMScheduler", "beta_start": -0.1}, "beta_start is -0.1"),
        ({**STABLE_DIFFUSION_1, "_class_name": "DDIMScheduler", "beta_start": float("nan")}, "beta_start is nan"),
        (
            {**STABLE_DIFFUSION_1, "_class_name": "DDIMScheduler", "trained_betas": [0.1]},
            "trained_betas: expected 1000 numbers",
        ),
        ({**STABLE_DIFFUSION_1, "_class_name": "DDIMScheduler", "trained_betas": "odd"}, "trained_betas: expected"),
        ({"beta_schedule": "scaled_linear", "num_train_timesteps": 1000}, "no beta_start or beta_end"),
        ({}, "no num_train_timesteps or beta_start"),
    ],
)
def test_what_means_another_noise_or_none_is_refused_by_its_field(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VariancePreserving(config, "scheduler_config.json")


@pytest.mark.parametrize("text", ["null", "[]", "7", "", "{", '"DDIM"', "[" * 3000 + "]" * 3000, '{"beta_start": ' * 3000])
def test_a_document_that_is_no_object_is_named(tiny: Path, tmp_path: Path, text: str) -> None:
    folder = copied(tiny, tmp_path / "p")
    for file in (
        SCHEDULER,
        "vae/config.json",
        "text_encoder/config.json",
        "tokenizer/tokenizer_config.json",
        "model_index.json",
    ):
        kept = (folder / file).read_text()
        (folder / file).write_text(text)
        with pytest.raises(ConfigError, match=f"{file}: (expected a JSON object|not JSON)"):
            find_pipeline(str(folder), with_weights=False)
        (folder / file).write_text(kept)


@pytest.mark.parametrize("kind", [["DDIMScheduler"], {"a": 1}, 3])
def test_a_class_that_is_no_name_is_said(tiny: Path, tmp_path: Path, kind: object) -> None:
    """A list is no key of a table of classes."""
    folder = copied(tiny, tmp_path / "own")
    change(folder / "scheduler" / "scheduler_config.json", _class_name=kind)
    with pytest.raises(ConfigError, match=r"_class_name is .*; expected the name of a class of diffusers"):
        find_pipeline(str(folder), with_weights=True)
    folder = copied(tiny, tmp_path / "named")
    change(folder / "model_index.json", scheduler=["diffusers", kind])
    with pytest.raises(ConfigError, match=r"scheduler is .*; expected \['diffusers', 'DDIMScheduler'\]"):
        find_pipeline(str(folder), with_weights=True)


def test_two_classes_must_mean_one_schedule(tiny: Path, tmp_path: Path) -> None:
    folder = copied(tiny, tmp_path / "p")
    change(folder / "model_index.json", scheduler=["diffusers", "DPMSolverMultistepScheduler"])
    find_pipeline(str(folder), with_weights=False)
    drop(folder / SCHEDULER, "beta_start", "beta_end")  # what DDIM's class has is not what LCM's has
    change(folder / "model_index.json", scheduler=["diffusers", "LCMScheduler"])
    with pytest.raises(
        ConfigError, match=r"scheduler is LCMScheduler, but scheduler_config.json is of DDIMScheduler and means another"
    ):
        find_pipeline(str(folder), with_weights=False)
    drop(folder / SCHEDULER, "_class_name")  # then the index alone says what it is
    assert find_pipeline(str(folder), with_weights=False).schedule().alpha(999) == pytest.approx(0.0682, abs=1e-3)
    for named, message in (
        (["my_schedulers", "Mine"], "expected"),
        ("DDIMScheduler", "expected"),
        (["diffusers", "EDMEulerScheduler"], "EDM"),
    ):
        change(folder / "model_index.json", scheduler=named)
        with pytest.raises(ConfigError, match=message):
            find_pipeline(str(folder), with_weights=False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_train_timesteps": 0}, "num_train_timesteps is 0"),
        ({"shift": 0}, "shift is 0; expected a number above 0"),
        ({"shift": "3"}, "shift is '3'"),
        ({"invert_sigmas": True}, "invert_sigmas"),
    ],
)
def test_a_flow_that_is_none_is_refused_by_its_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Flow({**saved(FlowMatchEulerDiscreteScheduler()), **fields})
