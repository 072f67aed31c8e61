"""SDXL in miniature: what the UNet is told and what is made of its answer, against diffusers' own pipeline and formulas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from raymia.attacks.loss import Loss
from raymia.errors import ConfigError
from raymia.replica.conditioning import Conditioning
from raymia.replica.families import LoadOptions
from raymia.replica.folder import find_pipeline, load_replica
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.testbed.architecture import TOKENS, new_tokenizer, new_vae
from raymia.trial.trial import Trial
from tests.replica.damaged import change, copied

SIDE_PX = 64
WIDTHS, PROJECTED, TIME_WIDTH = (32, 48), 40, 8
PROMPTS = ["a small picture", "of no meaning, a picture"]


def save_sdxl(folder: Path, scheduler: Any, **options: Any) -> Path:
    """A pipeline of SDXL's shape with random weights, written by diffusers itself."""
    tokenizer = new_tokenizer(PROMPTS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        configs = [
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=3,
                num_attention_heads=4,
                max_position_embeddings=TOKENS,
                projection_dim=PROJECTED,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
            for width in WIDTHS
        ]
        unet = UNet2DConditionModel(
            sample_size=SIDE_PX // 8,
            block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=sum(WIDTHS),
            attention_head_dim=(2, 4),
            transformer_layers_per_block=(1, 2),
            use_linear_projection=True,
            norm_num_groups=16,
            addition_embed_type="text_time",
            addition_time_embed_dim=TIME_WIDTH,
            projection_class_embeddings_input_dim=PROJECTED + 6 * TIME_WIDTH,
        )
        vae = new_vae()
        vae.register_to_config(scaling_factor=0.13025, force_upcast=True)
        pipeline = StableDiffusionXLPipeline(
            vae=vae,
            text_encoder=CLIPTextModel(configs[0]),
            text_encoder_2=CLIPTextModelWithProjection(configs[1]),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=unet,
            scheduler=scheduler,
            add_watermarker=False,
            **options,
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def euler(**options: Any) -> EulerDiscreteScheduler:
    """The scheduler that SDXL-base ships with."""
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return EulerDiscreteScheduler(**betas, timestep_spacing="leading", steps_offset=1, **options)


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


class Captured(Exception):  # noqa: N818 - it ends the pipeline once enough is known
    """The arguments of a call of the UNet."""

    def __init__(self, latents: Tensor, t: Tensor, named: dict[str, Any]) -> None:
        super().__init__()
        self.latents, self.t, self.named = latents, t, named


def captured(call: Callable[[], object], unet: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> Captured:
    """What a call asks of a UNet first."""

    def forward(latents: Tensor, t: Tensor, **named: Any) -> None:
        raise Captured(latents, t, {name: value for name, value in named.items() if value is not None})

    with monkeypatch.context() as patched:
        patched.setattr(unet, "forward", forward)
        with pytest.raises(Captured) as caught:
            call()
    return caught.value


@pytest.mark.parametrize(("guidance", "prompts"), [(1.0, PROMPTS), (5.0, ["", ""])])
def test_the_unet_is_called_with_exactly_what_the_pipeline_passes(
    replica: LatentDiffusion,
    pipeline: StableDiffusionXLPipeline,
    monkeypatch: pytest.MonkeyPatch,
    guidance: float,
    prompts: list[str],
) -> None:
    # Under guidance the pipeline puts the unconditional rows first: those are what the empty prompt stands for.
    shown = PROMPTS
    asked = captured(
        lambda: pipeline(
            prompt=shown, num_inference_steps=4, guidance_scale=guidance, height=SIDE_PX, width=SIDE_PX, output_type="latent"
        ),
        pipeline.unet,
        monkeypatch,
    )
    latents, t = asked.latents[: len(shown)], int(asked.t)
    ours = captured(lambda: replica.predicted_noise(latents, t, replica.text(prompts)), replica._denoiser, monkeypatch)
    assert torch.equal(ours.latents, latents)
    assert torch.equal(ours.t, asked.t)
    added, expected = ours.named.pop("added_cond_kwargs"), asked.named.pop("added_cond_kwargs")
    assert set(added) == set(expected) == {"text_embeds", "time_ids"}
    for name, tensor in added.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name][: len(shown)]), name
    assert set(ours.named) == set(asked.named) == {"encoder_hidden_states", "return_dict"}
    assert torch.equal(ours.named["encoder_hidden_states"], asked.named["encoder_hidden_states"][: len(shown)])


def test_encode_and_decode_are_the_pipelines(replica: LatentDiffusion, pipeline: StableDiffusionXLPipeline) -> None:
    images = torch.rand(2, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = replica.encode(images)
    with torch.no_grad():
        mean = pipeline.vae.encode(images).latent_dist.mode() * pipeline.vae.config.scaling_factor
        decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample.clamp(-1, 1)
    assert torch.allclose(latents, mean, atol=1e-6)
    assert torch.allclose(replica.decode(latents), decoded, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_loss_is_that_of_diffusers_training_script_on_the_same_batch(tmp_path: Path, prediction_type: str) -> None:
    folder = save_sdxl(tmp_path / "p", euler(prediction_type=prediction_type))
    replica = load_replica(str(folder), LoadOptions(device="cpu", resolution_px=SIDE_PX))
    images = torch.rand(2, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(1)) * 2 - 1
    trial = Trial(replica, images, PROMPTS, ["a", "b"], seed=3)
    scores = Loss(timesteps=(100, 400), draws=1).score(trial)
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, use_safetensors=True, add_watermarker=False)
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    states, _, pooled, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    sizes = torch.tensor([[SIDE_PX, SIDE_PX, 0, 0, SIDE_PX, SIDE_PX]] * 2, dtype=states.dtype)
    with torch.no_grad():
        z0 = pipeline.vae.encode(images).latent_dist.mode() * pipeline.vae.config.scaling_factor
    for t in (100, 400):
        noise, steps = trial.noise(0), torch.tensor([t, t])
        # train_text_to_image_sdxl.py: add_noise, the UNet under time_ids and text_embeds, and the mean squared error.
        noisy = scheduler.add_noise(z0, noise, steps)
        with torch.no_grad():
            added = {"time_ids": sizes, "text_embeds": pooled}
            predicted = pipeline.unet(noisy, steps, states, added_cond_kwargs=added).sample
        target = noise if prediction_type == "epsilon" else scheduler.get_velocity(z0, noise, steps)
        losses = (predicted - target).square().mean(dim=(1, 2, 3))
        if prediction_type == "v_prediction":
            # At one level the error of the noise is alpha^2 times that of the velocity.
            losses = losses * scheduler.alphas_cumprod[t]
        assert torch.allclose(-scores[f"loss.t={t}"], losses, rtol=1e-5), t


def test_every_image_may_have_a_timestep_of_its_own_and_parts_change_nothing(replica: LatentDiffusion) -> None:
    z, told = torch.randn(3, 4, 8, 8), replica.text([*PROMPTS, ""])
    together = replica.predicted_noise(z, torch.tensor([0, 400, 900]), told)
    alone = [replica.predicted_noise(z[i : i + 1], t, told[i : i + 1]) for i, t in enumerate((0, 400, 900))]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
    joined = Conditioning.cat(told.split(2))
    assert torch.equal(replica.predicted_noise(z, 400, joined), replica.predicted_noise(z, 400, told))


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
