"""FLUX.1 in miniature: what is particular to it beside what holds in every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline

from raymia.attacks.clid import CLiD
from raymia.attacks.denoising import Denoising
from raymia.errors import ConfigError
from raymia.replica.families import LoadOptions
from raymia.replica.folder import PipelineFolder, find_pipeline
from raymia.replica.latent_diffusion import LatentDiffusion
from tests.replica.damaged import change, copied
from tests.replica.families.case import PROMPTS
from tests.replica.families.flux import save, unpacked
from tests.replica.test_every_family import calls

OPTIONS = LoadOptions(device="cpu", resolution_px=64)


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> PipelineFolder:
    return find_pipeline(str(save(tmp_path_factory.mktemp("dev") / "p")), with_weights=True)


@pytest.fixture(scope="module")
def schnell(tmp_path_factory: pytest.TempPathFactory) -> PipelineFolder:
    return find_pipeline(str(save(tmp_path_factory.mktemp("schnell") / "p", guidance_embeds=False)), with_weights=True)


def asked(found: PipelineFolder, guidance: float | None) -> dict[str, Any]:
    """What the denoiser is called with at an image that is wider than high."""
    replica = found.load(LoadOptions(device="cpu", resolution_px=64, guidance=guidance))
    assert isinstance(replica, LatentDiffusion)
    z = torch.randn(1, 16, 8, 12, generator=torch.Generator().manual_seed(0))
    (call,) = calls(replica._denoiser, lambda: replica.predicted_noise(z, 300, replica.text(PROMPTS[:1])))
    return call


@pytest.mark.parametrize("guidance", [None, 3.5])
def test_dev_is_told_the_guidance_of_the_job_and_positions_of_a_wide_image_as_the_pipeline_does(
    dev: PipelineFolder, guidance: float | None
) -> None:
    call = asked(dev, guidance)
    own = FluxPipeline.from_pretrained(dev.path, use_safetensors=True)
    own.set_progress_bar_config(disable=True)
    scale = 1.0 if guidance is None else guidance
    (expected,) = calls(
        own.transformer,
        lambda: own(PROMPTS[:1], height=64, width=96, num_inference_steps=1, guidance_scale=scale, output_type="latent"),
    )
    assert call.keys() == expected.keys()
    for name in ("guidance", "img_ids", "txt_ids", "encoder_hidden_states", "pooled_projections"):
        assert torch.allclose(call[name], expected[name], atol=1e-6), name


def test_schnell_is_told_no_guidance_and_refuses_one(schnell: PipelineFolder) -> None:
    assert "guidance" not in asked(schnell, None)
    with pytest.raises(ConfigError, match=r"replica\.guidance: .* was not distilled under guidance"):
        schnell.family.check_options(schnell.path, LoadOptions(guidance=2.0))
    schnell.family.check_options(schnell.path, OPTIONS)


def test_another_guidance_is_another_model_and_the_self_test_holds_it_to_the_pipelines(dev: PipelineFolder) -> None:
    z = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    one, other = (dev.load(LoadOptions(device="cpu", resolution_px=64, guidance=scale)) for scale in (1.0, 3.5))
    noises = [replica.predicted_noise(z, 300, replica.text([""])) for replica in (one, other)]
    assert not torch.allclose(*noises, atol=1e-4)


@pytest.mark.parametrize("which", ["dev", "schnell"])
def test_what_guides_from_an_unconditional_prediction_is_refused_and_two_prompts_may_be_compared(
    which: str, request: pytest.FixtureRequest
) -> None:
    found: PipelineFolder = request.getfixturevalue(which)
    lacks = found.family.lacks(found.path)
    assert Denoising().tells() & lacks.keys() == {"unconditional"}
    assert not CLiD().tells() & lacks.keys()
    assert "set guidance: 1" in lacks["unconditional"]


def test_latents_go_through_packing_unchanged(dev: PipelineFolder) -> None:
    z = torch.arange(2 * 16 * 6 * 4, dtype=torch.float32).reshape(2, 16, 6, 4)
    tokens = FluxPipeline._pack_latents(z, 2, 16, 6, 4)
    assert torch.equal(unpacked(tokens, 6, 4), z)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"_class_name": "FluxFillPipeline"}, "FluxFillPipeline is not supported"),
        ("model_index.json", {"image_encoder": ["transformers", "CLIPModel"], "extra": ["diffusers", "X"]}, "extra"),
        ("transformer/config.json", {"in_channels": 384}, "in_channels 384, but the autoencoder's 16 give 64"),
        ("transformer/config.json", {"patch_size": 2}, "patch_size is 2; another packing"),
        ("transformer/config.json", {"out_channels": 128}, "out_channels is 128"),
        ("transformer/config.json", {"pooled_projection_dim": 64}, "pooled_projection_dim 64, but text_encoder is 32 wide"),
        ("transformer/config.json", {"joint_attention_dim": 64}, "joint_attention_dim 64, but text_encoder_2 is 48 wide"),
        ("vae/config.json", {"latents_mean": [0.0] * 16}, "latents_mean"),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "DDIMScheduler"},
            "base_image_seq_len is 256, which no supported scheduler knows",
        ),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 500}, "num_train_timesteps is 500; expected 1000"),
        ("scheduler/scheduler_config.json", {"invert_sigmas": True}, "invert_sigmas"),
    ],
)
def test_what_cannot_be_attacked_is_refused_by_field(
    dev: PipelineFolder, tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    target = copied(dev.path, tmp_path / "p")
    change(target / file, **changes)
    with pytest.raises(ConfigError, match=message):
        find_pipeline(str(target), with_weights=False)


def test_sides_that_cannot_be_packed_are_refused(dev: PipelineFolder) -> None:
    with pytest.raises(ConfigError, match=r"replica\.resolution_px 72 is not a multiple of 16"):
        dev.load(LoadOptions(device="cpu", resolution_px=72))
