"""The self-test of a replica that loads: what it takes for right, and each way to be wrong that it finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor

from raymia.errors import ConfigError
from raymia.replica import self_test as module
from raymia.replica.autoencoder import Autoencoder
from raymia.replica.conditioning import Conditioning
from raymia.replica.families import LoadOptions
from raymia.replica.folder import PipelineFolder, find_pipeline, load_replica
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.replica.schedule import VariancePreserving
from raymia.replica.sdxl import _Replica as SDXLReplica
from raymia.replica.stable_diffusion import _Replica
from tests.replica.damaged import UNET, change, copied, rewrite
from tests.replica.families.sdxl import euler, save_sdxl

OPTIONS = LoadOptions(device="cpu", resolution_px=64)


@pytest.fixture(scope="module")
def found(tiny: Path) -> PipelineFolder:
    return find_pipeline(str(tiny), with_weights=True)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> PipelineFolder:
    return find_pipeline(str(save_sdxl(tmp_path_factory.mktemp("sdxl") / "p", euler())), with_weights=True)


@pytest.fixture
def differences(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How far what is compared is apart, as a share of it."""
    seen: list[float] = []
    compare = module._require_same

    def noted(ours: Tensor, expected: Tensor, *more: Any) -> None:
        seen.append(float((ours - expected).norm() / expected.norm()))
        compare(ours, expected, *more)

    monkeypatch.setattr(module, "_require_same", noted)
    return seen


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 1e-5), ("bfloat16", 3e-2), ("float16", 5e-3)])
def test_both_families_are_diffusers_pipelines_to_rounding(
    tiny: Path, tmp_path: Path, differences: list[float], dtype: str, rounding: float, prediction_type: str
) -> None:
    folder = copied(tiny, tmp_path / "sd")
    change(folder / "scheduler" / "scheduler_config.json", prediction_type=prediction_type)
    others = (save_sdxl(tmp_path / "xl", euler(prediction_type=prediction_type)),)
    for place in (folder, *others):
        load_replica(str(place), LoadOptions(dtype=dtype, device="cpu", resolution_px=64))
    assert len(differences) == 4, "autoencoder and predictions of each"
    assert max(differences) < rounding < module.ROUNDING[getattr(torch, dtype)]


def test_zeros_for_the_empty_prompt_are_as_the_pipeline_says(tmp_path: Path, differences: list[float]) -> None:
    load_replica(str(save_sdxl(tmp_path / "p", euler(), force_zeros_for_empty_prompt=False)), OPTIONS)
    assert max(differences) < 1e-5


def test_a_schedule_of_other_steps_is_asked_at_its_own(tmp_path: Path, differences: list[float]) -> None:
    betas = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
    scheduler = EulerDiscreteScheduler(num_train_timesteps=4000, **betas)
    load_replica(str(save_sdxl(tmp_path / "p", scheduler)), LoadOptions(device="cpu", resolution_px=64, naming="own"))
    assert max(differences) < 1e-5


def other_states(self: Any, prompts: Sequence[str]) -> Conditioning:
    ids = self._tokenizer(list(prompts), padding="max_length", return_tensors="pt").input_ids
    return Conditioning(states=self._text_encoder(ids, output_hidden_states=True).hidden_states[-2])


def unpadded(self: Any, prompts: Sequence[str]) -> Conditioning:
    tokens = self._tokenizer(list(prompts), padding="max_length", return_tensors="pt")
    return Conditioning(states=self._text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state)


@pytest.mark.parametrize("wrong", [other_states, unpadded])
def test_a_family_that_tells_its_denoiser_something_else_is_refused(
    found: PipelineFolder, wrong: Callable[..., Conditioning], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Replica, "_encode_prompts", wrong)
    with pytest.raises(
        ConfigError, match="diffusers' own StableDiffusionPipeline gives something else than the replica: they dif"
    ):
        found.load(OPTIONS)


def test_sizes_and_pooled_vectors_are_compared_too(sdxl: PipelineFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = SDXLReplica._arguments

    def other(field: str, edit: Callable[[Tensor], Tensor]) -> Callable[..., dict[str, Any]]:
        def told(self: Any, conditioning: Conditioning, height: int, width: int) -> dict[str, Any]:
            given = arguments(self, conditioning, height, width)
            return {
                **given,
                "added_cond_kwargs": {**given["added_cond_kwargs"], field: edit(given["added_cond_kwargs"][field])},
            }

        return told

    for field, edit in (("time_ids", lambda ids: ids + 100), ("text_embeds", torch.zeros_like)):
        monkeypatch.setattr(SDXLReplica, "_arguments", other(field, edit))
        with pytest.raises(ConfigError, match="StableDiffusionXLPipeline gives something else"):
            sdxl.load(OPTIONS)


def test_a_time_that_is_off_by_one_level_is_found(found: PipelineFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = LatentDiffusion.predicted_noise
    monkeypatch.setattr(LatentDiffusion, "predicted_noise", lambda self, z, t, told: asked(self, z, t + 100, told))
    with pytest.raises(ConfigError, match="gives something else than the replica"):
        found.load(OPTIONS)


def test_a_layout_that_changes_what_comes_out_is_found(found: PipelineFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    convolve = torch.nn.functional.conv2d

    def broken(latents: Tensor, weight: Tensor, *more: Any) -> Tensor:
        wrong = min(weight.shape) > 1 and weight.is_contiguous(memory_format=torch.channels_last)
        return convolve(latents, weight * 1.01 if wrong else weight, *more)

    monkeypatch.setattr(torch.nn.functional, "conv2d", broken)
    with pytest.raises(ConfigError, match="gives something else than the replica"):
        found.load(OPTIONS)


def test_the_weights_are_left_in_the_layout_that_they_had(found: PipelineFolder) -> None:
    replica = found.load(OPTIONS)
    weight = replica.parameters()["conv_in.weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not any(one.requires_grad for one in replica.parameters().values())
    assert not replica._denoiser._forward_hooks


def test_a_denoiser_that_puts_out_nothing_is_refused(tiny: Path, tmp_path: Path) -> None:
    for prediction_type in ("epsilon", "v_prediction"):
        folder = copied(tiny, tmp_path / prediction_type)
        change(folder / "scheduler" / "scheduler_config.json", prediction_type=prediction_type)
        rewrite(folder / UNET, lambda tensors: {n: t * 0 if n.startswith("conv_out") else t for n, t in tensors.items()})
        with pytest.raises(ConfigError, match="the denoiser puts out nothing"):
            load_replica(str(folder), OPTIONS)


def enlarged(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """One tensor as large as float32 can hold it."""
    return lambda tensors: {n: t.float() / t.abs().max() * 3e38 if n == name else t.float() for n, t in tensors.items()}


def test_weights_that_are_finite_and_whose_outputs_are_not_are_refused(tiny: Path, tmp_path: Path) -> None:
    folder = copied(tiny, tmp_path / "p")
    rewrite(folder / UNET, enlarged("conv_out.weight"))
    with pytest.raises(ConfigError, match="the denoiser's output is not finite"):
        load_replica(str(folder), OPTIONS)


def test_an_autoencoder_that_scales_otherwise_or_overflows_is_refused(
    found: PipelineFolder, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Autoencoder.encode
    with monkeypatch.context() as patched:
        patched.setattr(Autoencoder, "encode", lambda self, images: encode(self, images) * 1.1)
        with pytest.raises(ConfigError, match="diffusers' own autoencoder gives something else"):
            found.load(OPTIONS)
    folder = copied(tiny, tmp_path / "p")
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    rewrite(file, enlarged("encoder.conv_out.weight"))
    with pytest.raises(ConfigError, match=r"vae: its latents or images are not finite"):
        load_replica(str(folder), OPTIONS)


def test_a_compiler_that_changes_what_comes_out_or_fails_is_named(
    found: PipelineFolder, monkeypatch: pytest.MonkeyPatch, differences: list[float]
) -> None:
    options = LoadOptions(device="cpu", resolution_px=64, denoiser_batch=3, compiled=True)
    monkeypatch.setattr(torch, "compile", lambda unet, **_: unet)
    found.load(options)
    assert max(differences) < 1e-5
    monkeypatch.setattr(torch, "compile", lambda unet, **_: lambda *given, **named: [1.01 * unet(*given, **named)[0]])
    with pytest.raises(ConfigError, match=r"replica\.compile: the same model uncompiled, .*, gives something else"):
        found.load(options)

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(torch, "compile", lambda unet, **_: fails)
    with pytest.raises(ConfigError, match=r"replica\.compile: .* cannot be compiled \(no C compiler\)"):
        found.load(options)


def test_a_pipeline_that_cannot_run_says_so(found: PipelineFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr("diffusers.StableDiffusionPipeline.__call__", fails)
    with pytest.raises(ConfigError, match=r"diffusers' own StableDiffusionPipeline cannot run it \(RecursionError: too deep\)"):
        found.load(OPTIONS)


@pytest.mark.parametrize(
    ("part", "fields"),
    [("unet", {"norm_eps": "small"}), ("unet", {"attention_head_dim": -1}), ("text_encoder", {"layer_norm_eps": None})],
)
def test_parts_that_can_be_built_and_not_be_run_are_named(
    tiny: Path, tmp_path: Path, part: str, fields: dict[str, Any]
) -> None:
    folder = copied(tiny, tmp_path / "p")
    change(folder / part / "config.json", **fields)
    with pytest.raises(ConfigError, match="diffusers' own StableDiffusionPipeline cannot run it"):
        load_replica(str(folder), OPTIONS)


def test_a_family_without_a_pipeline_of_diffusers_is_asked_for_signs_of_life_alone(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, differences: list[float]
) -> None:
    family = find_pipeline(str(tiny), with_weights=False).family
    monkeypatch.setattr(type(family), "pipelines", ("NoPipelineOfDiffusers",))
    assert isinstance(PipelineFolder(tiny, family).load(OPTIONS).schedule, VariancePreserving)
    assert len(differences) == 1, "the autoencoder's"
