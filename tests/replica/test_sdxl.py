"""SDXL in miniature: what the UNet is told and what is made of its answer, against diffusers' own pipeline and formulas."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionXLPipeline
from PIL import Image

import raymia
from raymia.attacks.loss import Loss
from raymia.errors import ConfigError
from raymia.replica.families import LoadOptions
from raymia.replica.folder import find_pipeline, load_replica
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.trial.trial import Trial
from tests.attacks.replicas import random_images
from tests.replica.damaged import change, copied
from tests.replica.families.case import PROMPTS, SIDE_PX, encode_kl
from tests.replica.families.sdxl import euler, predict, save_sdxl
from tests.replica.test_every_family import calls


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sdxl(tmp_path_factory.mktemp("sdxl") / "pipeline", euler())


@pytest.fixture(scope="module")
def replica(folder: Path) -> LatentDiffusion:
    loaded = load_replica(str(folder), LoadOptions(device="cpu", resolution_px=SIDE_PX))
    assert isinstance(loaded, LatentDiffusion)
    return loaded


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> StableDiffusionXLPipeline:
    loaded = StableDiffusionXLPipeline.from_pretrained(folder, use_safetensors=True, add_watermarker=False)
    loaded.scheduler = DDIMScheduler.from_config(loaded.scheduler.config, clip_sample=False)  # whose latents are not rescaled
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_the_empty_prompt_is_told_as_zeros_as_the_pipeline_tells_it(
    replica: LatentDiffusion, pipeline: StableDiffusionXLPipeline
) -> None:
    _, states, _, pooled = pipeline.encode_prompt("a", negative_prompt=None, do_classifier_free_guidance=True)
    empty = replica.text([""])
    assert torch.equal(empty.states, states)
    assert torch.equal(empty.pooled, pooled)
    assert not states.any()


def test_further_forms_of_the_weights_beside_them_as_commoncanvas_is_published_change_nothing(
    folder: Path, replica: LatentDiffusion, tmp_path: Path
) -> None:
    target = copied(folder, tmp_path / "p")
    for part in ("unet", "vae"):
        whole = target / part / "diffusion_pytorch_model.safetensors"
        # Which holds float32, too, whatever it is called.
        shutil.copy(whole, target / part / "diffusion_pytorch_model.fp16.safetensors")
        (target / part / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    shutil.copy(target / "unet" / "diffusion_pytorch_model.safetensors", target / "commoncanvas_xl_c.safetensors")
    for part in ("vae_1_0", "vae_decoder", "vae_encoder"):
        shutil.copytree(target / "vae", target / part)
        (target / part / "model.onnx").write_bytes(b"another form")
    found = find_pipeline(str(target), with_weights=True)
    assert found.fingerprint() == find_pipeline(str(folder), with_weights=True).fingerprint()
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    loaded = found.load(LoadOptions(device="cpu", resolution_px=SIDE_PX))
    noises = [one.predicted_noise(z, 300, one.text([PROMPTS[0]])) for one in (loaded, replica)]
    assert torch.equal(*noises)


@pytest.mark.parametrize("zero_snr", [False, True])
def test_the_loss_of_v_prediction_is_that_of_diffusers_training_script(tmp_path: Path, zero_snr: bool) -> None:
    folder = save_sdxl(tmp_path / "p", euler(prediction_type="v_prediction", rescale_betas_zero_snr=zero_snr))
    replica = load_replica(str(folder), LoadOptions(device="cpu", resolution_px=SIDE_PX))
    trial = Trial(replica, random_images(2, SIDE_PX), PROMPTS, ["a", "b"], seed=3)
    scores = Loss(timesteps=(100, 400), draws=1).score(trial)
    own = StableDiffusionXLPipeline.from_pretrained(folder, use_safetensors=True, add_watermarker=False)
    scheduler = DDPMScheduler.from_config(own.scheduler.config)
    z0, noise, losses = encode_kl(own, trial.images), trial.noise(0), []
    for t in (100, 400):
        step = replica.schedule.time(t).expand(2)
        with torch.no_grad():
            predicted = predict(own, scheduler.add_noise(z0, noise, step), float(step[0]), PROMPTS)
        losses.append((predicted - scheduler.get_velocity(z0, noise, step)).square().mean(dim=(1, 2, 3)))
        # At one level the error of the noise is alpha^2 times that of the velocity.
        assert torch.allclose(-scores[f"loss.t={t}"], losses[-1] * scheduler.alphas_cumprod[step[0]], rtol=1e-4), t
    assert torch.allclose(-scores["loss"], torch.stack(losses).mean(0), rtol=1e-4)


def test_sizes_of_the_file_are_told_where_a_job_asks_for_them_as_the_pipeline_tells_them(
    replica: LatentDiffusion, pipeline: StableDiffusionXLPipeline
) -> None:
    placed = (300, 200, 40, 0)
    trial = Trial(replica, random_images(1, SIDE_PX), PROMPTS[:1], ["a"], 0, sizes=torch.tensor([placed]).float())
    (ours,) = calls(replica._denoiser, lambda: trial.predicted_noise(300, 0))
    (expected,) = calls(
        pipeline.unet,
        lambda: pipeline(
            PROMPTS[:1],
            height=SIDE_PX,
            width=SIDE_PX,
            original_size=placed[:2],
            crops_coords_top_left=placed[2:],
            num_inference_steps=1,
            guidance_scale=1.0,
            output_type="latent",
        ),
    )
    for name in ("time_ids", "text_embeds"):
        assert torch.equal(ours["added_cond_kwargs"][name], expected["added_cond_kwargs"][name]), name


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Of three shapes, and one whose shape is between two."""
    rng = np.random.default_rng(0)
    sizes = [(80, 80), (120, 60), (60, 130), (82, 80), (240, 121), (90, 70)]
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in sizes]


def test_in_shapes_of_its_training_an_image_scores_the_same_whatever_stands_beside_it(
    folder: Path, pictures: list[Image.Image]
) -> None:
    attacks = {"loss": {"timesteps": [100, 400], "draws": 2}, "autoencoder": {}}
    options = {"model": str(folder), "attacks": attacks, "resolution_px": 128, "dtype": "float32", "device": "cpu"}
    tables = {
        (shape, size): raymia.score(pictures, batch_size=size, shape=shape, progress=False, **options)
        for shape, size in (("buckets", 6), ("buckets", 2), ("square", 6))
    }
    together, apart = tables["buckets", 6], tables["buckets", 2]
    for signal in ("loss", "autoencoder"):
        assert np.allclose(together[signal], apart[signal], rtol=1e-5), signal
        square = np.isclose(together[signal], tables["square", 6][signal], rtol=1e-5)
        assert square.tolist() == [True, False, False, True, False, False], "what is square is not cropped either way"


def test_own_sizes_change_scores_and_are_refused_where_a_model_is_told_none(
    folder: Path, tiny: Path, pictures: list[Image.Image]
) -> None:
    options = {"attacks": ["loss"], "resolution_px": 64, "dtype": "float32", "device": "cpu", "progress": False}
    constant, own = (
        raymia.score(pictures[:2], model=str(folder), micro_conditions=kind, **options)["loss"] for kind in ("constant", "own")
    )
    assert not np.allclose(constant, own, rtol=1e-6)
    for changes, field in (({"micro_conditions": "own"}, "micro_conditions"), ({"shape": "buckets"}, "shape: buckets")):
        with pytest.raises(ConfigError, match=rf"replica\.{field}"):
            raymia.score(pictures[:2], model=str(tiny), **changes, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"replica\.compile: goes with replica\.shape: square"):
        raymia.score(pictures[:2], model=str(folder), shape="buckets", compile=True, **options)


def test_an_empty_prompt_is_encoded_where_the_pipeline_does_not_force_zeros(tmp_path: Path) -> None:
    folder = save_sdxl(tmp_path / "p", euler(), force_zeros_for_empty_prompt=False)
    replica = load_replica(str(folder), LoadOptions(device="cpu", resolution_px=SIDE_PX))
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, use_safetensors=True, add_watermarker=False)
    _, states, _, pooled = pipeline.encode_prompt("a", negative_prompt=None, do_classifier_free_guidance=True)
    empty = replica.text([""])
    assert empty.states is not None
    assert empty.pooled is not None
    assert torch.allclose(empty.states, states, atol=1e-6)
    assert torch.allclose(empty.pooled, pooled, atol=1e-6)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"_class_name": "StableDiffusionXLInpaintPipeline"}, "StableDiffusionXLInpaintPipeline is not"),
        ("model_index.json", {"text_encoder": [None, None]}, "no text_encoder; expected"),
        ("model_index.json", {"requires_aesthetics_score": True}, "refiner"),
        ("model_index.json", {"text_encoder_2": ["transformers", "CLIPTextModel"]}, "text_encoder_2 is .*WithProjection"),
        ("model_index.json", {"tokenizer_2": ["transformers", "T5Tokenizer"]}, "tokenizer_2 is .*T5Tokenizer"),
        ("unet/config.json", {"in_channels": 9}, "inpainting"),
        ("unet/config.json", {"cross_attention_dim": 64}, "cross_attention_dim 64, but the text states are 80 wide"),
        ("unet/config.json", {"addition_embed_type": None}, "addition_embed_type None"),
        ("unet/config.json", {"projection_class_embeddings_input_dim": 7}, "input_dim 7, but text_encoder_2"),
        ("unet/config.json", {"time_cond_proj_dim": 256}, "consistency"),
        ("vae/config.json", {"latents_mean": [0.0] * 4}, "latents_mean"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "prediction_type 'sample'"),
    ],
)
def test_what_cannot_be_attacked_is_refused_by_field(
    folder: Path, tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    target = copied(folder, tmp_path / "p")
    change(target / file, **changes)
    with pytest.raises(ConfigError, match=message):
        find_pipeline(str(target), with_weights=True)
