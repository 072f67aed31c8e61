from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from raymia.errors import ConfigError
from raymia.replica.autoencoder import Autoencoder
from raymia.replica.conditioning import Conditioning
from raymia.replica.device import native_on_cpu
from raymia.replica.families import LoadOptions
from raymia.replica.folder import find_pipeline, load_replica
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.replica.protocol import Replica
from raymia.replica.schedule import VariancePreserving, ddim_move
from tests.replica.damaged import change, copied


@pytest.fixture(scope="module")
def replica(tiny: Path) -> Replica:
    return load_replica(str(tiny), LoadOptions(dtype="float32", device="cpu", resolution_px=64))


@pytest.fixture(scope="module")
def pipeline(tiny: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(tiny, use_safetensors=True, torch_dtype=torch.float32, safety_checker=None)


def edited(tiny: Path, target: Path, file: str, **changes: object) -> Path:
    change(copied(tiny, target) / file, **changes)
    return target


def test_parts_agree_with_the_diffusers_pipeline(replica: Replica, pipeline: StableDiffusionPipeline) -> None:
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    z = replica.encode(x)
    with torch.no_grad():
        expected = pipeline.vae.encode(x).latent_dist.mean * pipeline.vae.config.scaling_factor
        states, empty = pipeline.encode_prompt(["a small picture", "of"], "cpu", 1, True)
        noise = pipeline.unet(z, 300, states).sample
    assert torch.allclose(z, expected, atol=1e-5)
    assert torch.allclose(replica.text(["a small picture", "of"]).states, states, atol=1e-5)
    assert torch.allclose(replica.text(["", ""]).states, empty, atol=1e-5)
    assert torch.allclose(replica.predicted_noise(z, 300, Conditioning(states=states)), noise, atol=1e-5)
    assert replica.decode(z).shape == x.shape


def test_schedule_is_the_models_own_scaled_linear_one_and_not_linear(replica: Replica) -> None:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphabar = torch.cumprod(1 - betas, 0)
    for t in (0, 1, 500, 999):
        assert replica.schedule.alpha(t) == pytest.approx(alphabar[t].item() ** 0.5, rel=1e-4)
        assert replica.schedule.alpha(t) ** 2 + replica.schedule.sigma(t) ** 2 == pytest.approx(1)


def test_ddim_moves_agree_with_diffusers_scheduler(replica: Replica) -> None:
    scheduler = DDIMScheduler(clip_sample=False)
    schedule = VariancePreserving(json.loads(scheduler.to_json_string()), naming="own")
    scheduler.set_timesteps(10)
    z, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    expected = scheduler.step(noise, 500, z).prev_sample
    assert torch.allclose(ddim_move(schedule, z, noise, 500, 400), expected, atol=1e-5)


def test_v_prediction_is_returned_as_noise(tiny: Path, tmp_path: Path, replica: Replica) -> None:
    folder = edited(tiny, tmp_path / "v", "scheduler/scheduler_config.json", prediction_type="v_prediction")
    velocity = load_replica(str(folder), LoadOptions(dtype="float32", device="cpu", resolution_px=64))
    z, states = torch.randn(2, 4, 8, 8), replica.text(["a", "b"])
    output = replica.predicted_noise(z, 200, states)
    expected = replica.schedule.sigma(200) * z + replica.schedule.alpha(200) * output
    assert torch.allclose(velocity.predicted_noise(z, 200, states), expected, atol=1e-5)


def test_bfloat16_returns_float32_noise(tiny: Path) -> None:
    replica = load_replica(str(tiny), LoadOptions(dtype="bfloat16", device="cpu", resolution_px=64))
    noise = replica.predicted_noise(torch.randn(1, 4, 8, 8), 100, replica.text([""]))
    assert noise.dtype == torch.float32
    assert torch.isfinite(noise).all()


def test_a_processor_is_asked_for_the_dtypes_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "avx512_fp16": False, "l2_cache_size": 9})
    assert [native_on_cpu(dtype) for dtype in ("float32", "bfloat16", "float16")] == [True, True, False]


def test_a_bfloat16_replica_evaluates_in_float32_where_that_is_asked_for(tiny: Path, replica: Replica) -> None:
    half = load_replica(str(tiny), LoadOptions(dtype="bfloat16", device="cpu", resolution_px=64, also_float32=True))
    z, states = torch.randn(2, 4, 8, 8), half.text(["a", "b"])
    near = z + 1e-3 * torch.randn_like(z)
    precise = half.in_float32()
    of_half, of_precise, expected = (
        model.predicted_noise(near, 100, states) - model.predicted_noise(z, 100, states) for model in (half, precise, replica)
    )
    assert (of_precise - expected).norm() < 0.02 * expected.norm() < 0.02 * (of_half - expected).norm()
    assert half.in_float32() is precise
    assert replica.in_float32() is replica


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"_class_name": "KolorsPipeline"}, "KolorsPipeline is not supported"),
        ("model_index.json", {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}, "not supported"),
        ("unet/config.json", {"in_channels": 9}, "inpainting"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "prediction_type 'sample'"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "odd"}, "odd"),
        ("unet/config.json", {"time_cond_proj_dim": 256}, "time_cond_proj_dim 256; a consistency model"),
        ("unet/config.json", {"num_class_embeds": 10}, "num_class_embeds 10; a class of each image"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type 'timestep'"),
        ("unet/config.json", {"addition_embed_type": "text"}, "addition_embed_type 'text'"),
        (
            "unet/config.json",
            {"encoder_hid_dim_type": "text_image_proj", "encoder_hid_dim": 64},
            "encoder_hid_dim_type 'text_image_proj'",
        ),
        ("unet/config.json", {"attention_type": "gated"}, "attention_type 'gated'; boxes"),
        ("unet/config.json", {"dual_cross_attention": True}, "dual_cross_attention True"),
        ("unet/config.json", {"out_channels": 8}, "out_channels 8, but 4 come in"),
        ("unet/config.json", {"cross_attention_dim": 48}, "cross_attention_dim 48, but the text states are 64 wide"),
        ("unet/config.json", {"cross_attention_dim": [64, 64, 32]}, "but the text states are 64 wide"),
        ("vae/config.json", {"scaling_factor": None}, "scaling_factor is None"),
        ("vae/config.json", {"scaling_factor": float("nan")}, "nan is no number"),
        ("vae/config.json", {"scaling_factor": 0}, "scaling_factor is 0"),
        ("vae/config.json", {"shift_factor": 0.1}, "shift_factor is 0.1, which diffusers' pipelines of a UNet ignore"),
        ("vae/config.json", {"in_channels": 4}, "in_channels is 4; expected the 3 colours"),
        ("vae/config.json", {"latents_std": [1.0] * 4}, "has latents_std"),
    ],
)
def test_what_cannot_be_loaded_is_refused(
    tiny: Path, tmp_path: Path, file: str, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        find_pipeline(str(edited(tiny, tmp_path / "p", file, **changes)), with_weights=True)


def test_a_resolution_that_the_autoencoder_cannot_take_is_refused(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="multiple of 8"):
        load_replica(str(tiny), LoadOptions("float32", "cpu", 60))


def test_timesteps_outside_the_schedule_are_refused(replica: Replica) -> None:
    with pytest.raises(ConfigError, match="0 to 999"):
        replica.schedule.check(1000)


def test_a_compiled_unet_sees_two_sizes_of_calls_and_says_the_same(
    replica: Replica, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def compiled(unet: torch.nn.Module, **options: object) -> object:
        assert options == {"fullgraph": True, "dynamic": False}
        return lambda z, t, **others: sizes.append(len(z)) or unet(z, t, **others)

    monkeypatch.setattr(torch, "compile", compiled)
    fixed = load_replica(str(tiny), LoadOptions(resolution_px=64, denoiser_batch=8, compiled=True))
    z, states = torch.randn(11, 4, 8, 8), replica.text([f"picture {i}" for i in range(11)])
    with torch.no_grad():
        assert torch.allclose(fixed.predicted_noise(z, 300, states), replica.predicted_noise(z, 300, states), atol=1e-5)
    assert sizes == [8, 8, 2, 2], "one call when it loads, and three of eleven images"


def test_every_image_may_have_a_timestep_of_its_own(replica: Replica, tiny: Path, tmp_path: Path) -> None:
    z, states = torch.randn(3, 4, 8, 8), replica.text(["one", "two", "three"])
    steps = (0, 400, 999)
    folder = edited(tiny, tmp_path / "v", "scheduler/scheduler_config.json", prediction_type="v_prediction")
    for model in (replica, load_replica(str(folder), LoadOptions(resolution_px=64))):
        together = model.predicted_noise(z, torch.tensor(steps), states)
        alone = [model.predicted_noise(z[i : i + 1], t, states[i : i + 1]) for i, t in enumerate(steps)]
        assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_the_autoencoder_in_parts_gives_what_it_gives_at_once(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(5, 3, 64, 64) * 2 - 1
    latents = replica.encode(images)
    # Part by part to the bit: what the library rounds differently by the size of a call is up to 2e-5 in a decoded image.
    encoded, decoded = (
        torch.cat([call(part) for part in torch.split(whole, 2)])
        for call, whole in ((replica.encode, images), (replica.decode, latents))
    )
    monkeypatch.setattr(replica.autoencoder, "batch", 2)
    assert torch.allclose(replica.encode(images), latents, atol=1e-5)
    assert torch.equal(replica.encode(images), encoded)
    assert torch.equal(replica.decode(latents), decoded)


def test_calls_grow_with_the_latents_that_a_device_takes_at_once(replica: Replica, tiny: Path) -> None:
    folder = find_pipeline(str(tiny), with_weights=True)
    assert replica.denoiser_batch == 8192 // 64
    assert folder.load(LoadOptions(resolution_px=512)).denoiser_batch == 2
    assert folder.load(LoadOptions(resolution_px=64, denoiser_batch=5)).denoiser_batch == 5


def test_calls_are_halved_until_they_fit_the_memory_of_the_device(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find_pipeline(str(tiny), with_weights=True)
    noise, encode = LatentDiffusion.predicted_noise, Autoencoder.encode

    def within(limit: int, call: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def limited(self: object, images: torch.Tensor, *others: object) -> torch.Tensor:
            if len(images) > limit:
                raise torch.OutOfMemoryError("no memory")
            return call(self, images, *others)

        return limited

    monkeypatch.setattr("raymia.replica.latent_diffusion.MEMORY_BOUND", ("cpu",))
    assert folder.load(LoadOptions(resolution_px=64)).denoiser_batch == 128
    monkeypatch.setattr(LatentDiffusion, "predicted_noise", within(20, noise))
    monkeypatch.setattr(Autoencoder, "encode", within(9, encode))
    fitted = folder.load(LoadOptions(resolution_px=64))
    assert (fitted.denoiser_batch, fitted.autoencoder.batch) == (16, 8)
    with pytest.raises(ConfigError, match="lacks memory for 30 images"):
        folder.load(LoadOptions(resolution_px=64, denoiser_batch=30))
    monkeypatch.setattr(LatentDiffusion, "predicted_noise", within(0, noise))
    with pytest.raises(ConfigError, match="lacks memory for 1 images in the denoiser"):
        folder.load(LoadOptions(resolution_px=64))
