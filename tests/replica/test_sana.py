"""Sana in miniature: what is particular to it beside what holds in every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SanaPipeline
from torch import Tensor

from raymia.errors import ConfigError
from raymia.replica.families import LoadOptions
from raymia.replica.folder import PipelineFolder, find_pipeline, load_replica
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.replica.parts import Parts
from tests.replica.damaged import change, copied, drop
from tests.replica.families.sana import CHANNELS, INSTRUCTION, predict, save

OPTIONS = LoadOptions(device="cpu", resolution_px=128)
CAPTIONS = ["", " A small Picture ", "<b>of no meaning</b> &amp; a picture: https://a.org/b.png", "a small picture " * 200]
"""None, one with capitals and spaces around it, one that cleaning would change, and one that is cut."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> PipelineFolder:
    return find_pipeline(str(save(tmp_path_factory.mktemp("sana") / "p")), with_weights=True)


@pytest.fixture(scope="module")
def replica(found: PipelineFolder) -> LatentDiffusion:
    # Without the self-test, whose pipeline would bring the tokenizer to fill texts up behind their words.
    loaded = found.family.load(Parts(found.path, found.parts), OPTIONS)
    assert isinstance(loaded, LatentDiffusion)
    return loaded


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_captions_are_told_as_by_default_under_the_instruction_and_the_empty_one_as_the_unconditional_prompt(
    found: PipelineFolder, replica: LatentDiffusion
) -> None:
    told = replica.text(CAPTIONS)
    pipeline = SanaPipeline.from_pretrained(found.path, use_safetensors=True)
    states, mask = [], []
    for caption in CAPTIONS:
        with torch.no_grad():
            own = pipeline.encode_prompt(caption or "a boat", complex_human_instruction=INSTRUCTION)
        told_alone, mask_alone = own[:2] if caption else own[2:]
        states.append(told_alone)
        mask.append(mask_alone)
    assert told.states is not None
    assert told.mask is not None
    assert torch.equal(told.mask, torch.cat(mask))
    assert told.mask.sum(1).tolist()[::3] == [1, 300]
    assert torch.allclose(told.states * told.mask[..., None], torch.cat(states) * told.mask[..., None], atol=1e-5)


def test_what_stands_behind_a_caption_is_not_seen(replica: LatentDiffusion) -> None:
    told, z = replica.text(CAPTIONS[:2]), noise(2, CHANNELS, 4, 4)
    assert told.mask is not None
    hidden = (1 - told.mask)[..., None] * torch.ones(2, 300, 48)
    moved = told.shifted(hidden, 9.0)
    assert torch.allclose(replica.predicted_noise(z, 300, told), replica.predicted_noise(z, 300, moved), atol=1e-6)


def test_an_image_that_is_wider_than_high_is_predicted_as_by_the_transformer_alone(
    found: PipelineFolder, replica: LatentDiffusion
) -> None:
    z = noise(2, CHANNELS, 2, 6)
    noises = replica.predicted_noise(z, 300, replica.text(CAPTIONS[1:3]))
    pipeline = SanaPipeline.from_pretrained(found.path, use_safetensors=True)
    with torch.no_grad():
        alone = torch.cat([predict(pipeline, z[i : i + 1], replica.schedule.sigma(300), [CAPTIONS[1 + i]]) for i in range(2)])
    assert torch.allclose(replica.schedule.output_from_noise(noises, z, 300), alone, atol=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {"out_channels": 2 * CHANNELS},
        {"timestep_scale": 0.5},
        {"interpolation_scale": 1.0},
        {"qk_norm": "rms_norm_across_heads", "norm_elementwise_affine": True},
    ],
)
def test_models_of_other_fields_are_diffusers_own(tmp_path: Path, fields: dict[str, Any]) -> None:
    # Loading holds predictions against diffusers' pipeline.
    replica = load_replica(str(save(tmp_path / "p", **fields)), OPTIONS)
    assert replica.predicted_noise(noise(1, CHANNELS, 4, 4), 300, replica.text(["a boat"])).shape == (1, CHANNELS, 4, 4)


def test_the_shapes_are_those_that_the_pipeline_maps_sizes_to(found: PipelineFolder) -> None:
    processor = SanaPipeline.from_pretrained(found.path, use_safetensors=True).image_processor
    from diffusers.pipelines.sana.pipeline_sana import ASPECT_RATIO_1024_BIN, ASPECT_RATIO_4096_BIN

    for side, table in ((1024, ASPECT_RATIO_1024_BIN), (4096, ASPECT_RATIO_4096_BIN)):
        shapes = found.family.buckets(side)
        assert shapes is not None
        assert shapes.sizes[0] == (side, side)
        assert not [size for size in shapes.sizes if size[0] % 32 or size[1] % 32]
        for height, width in ((side, side), (side, 3 * side), (2 * side, side)):
            assert shapes.nearest(height, width) == processor.classify_height_width_bin(height, width, ratios=table)
    assert found.family.buckets(768) is None


def test_a_folder_with_the_fields_of_published_configs_is_taken(found: PipelineFolder, tmp_path: Path) -> None:
    target = copied(found.path, tmp_path / "p")
    change(target / "model_index.json", tokenizer=["transformers", "GemmaTokenizerFast"])
    encoder = target / "text_encoder" / "config.json"
    drop(encoder, "rope_parameters", "layer_types", "use_bidirectional_attention", "tie_word_embeddings")
    written = {
        "rope_theta": 10000.0,
        "hidden_act": "gelu_pytorch_tanh",
        "cache_implementation": "hybrid",
        "eos_token_id": [1, 107],
        "torch_dtype": "bfloat16",
        "transformers_version": "4.46.2",
        "_attn_implementation_autoset": True,
    }
    change(encoder, **written)
    drop(target / "transformer" / "config.json", "guidance_embeds", "guidance_embeds_scale", "qk_norm", "timestep_scale")
    # As solvers are saved.
    assert '"lambda_min_clipped": -Infinity' in (target / "scheduler" / "scheduler_config.json").read_text()
    published = find_pipeline(str(target), with_weights=True)
    assert torch.equal(published.load(OPTIONS).text(CAPTIONS).states, found.load(OPTIONS).text(CAPTIONS).states)
    assert published.family.native_px(published.path) == 128
    change(encoder, hidden_act="silu")
    with pytest.raises(ConfigError, match="hidden_act is 'silu' and hidden_activation 'gelu_pytorch_tanh'"):
        find_pipeline(str(target), with_weights=False)


def test_schedulers_of_both_kinds_mean_the_same_flow(found: PipelineFolder, tmp_path: Path) -> None:
    target = copied(found.path, tmp_path / "p")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(target / "scheduler")
    change(target / "model_index.json", scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"])
    euler, solver = find_pipeline(str(target), with_weights=False).schedule("own"), found.schedule("own")
    assert [euler.sigma(t) for t in range(0, 1000, 100)] == [solver.sigma(t) for t in range(0, 1000, 100)]
    assert float(euler.time(500)) == pytest.approx(3 * 0.501 / (1 + 2 * 0.501))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"_class_name": "SanaSprintPipeline"}, "SanaSprintPipeline is not supported"),
        ("model_index.json", {"text_encoder": ["transformers", "Gemma2ForCausalLM"]}, "expected .*Gemma2Model"),
        ("transformer/config.json", {"guidance_embeds": True}, "guidance_embeds is True; .* Sana Sprint was distilled"),
        ("transformer/config.json", {"in_channels": 16}, "in_channels 16, but the autoencoder's 8 give 8"),
        ("transformer/config.json", {"out_channels": 24}, "out_channels is 24; an output of other channels"),
        ("transformer/config.json", {"patch_size": 2}, "patch_size is 2; another packing"),
        ("transformer/config.json", {"caption_channels": 64}, "caption_channels 64, but text_encoder is 48 wide"),
        ("transformer/config.json", {"cross_attention_dim": 64}, "cross_attention_dim is 64; text of another width"),
        ("text_encoder/config.json", {"max_position_embeddings": 400}, r"makes \d+ tokens of a text .* expected 300 to 400"),
        ("vae/config.json", {"scaling_factor": 0}, "scaling_factor is 0"),
        ("vae/config.json", {"in_channels": 4}, "in_channels is 4; expected the 3 colours"),
        ("scheduler/scheduler_config.json", {"use_flow_sigmas": False}, "use_flow_sigmas is not set"),
        ("scheduler/scheduler_config.json", {"prediction_type": "trigflow"}, "expected one of .* rectified flow"),
        ("scheduler/scheduler_config.json", {"flow_shift": float("-inf")}, "-inf is no number to reckon with"),
    ],
)
def test_what_cannot_be_attacked_is_refused_by_field(
    found: PipelineFolder, tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    target = copied(found.path, tmp_path / "p")
    change(target / file, **changes)
    with pytest.raises(ConfigError, match=message):
        find_pipeline(str(target), with_weights=False)


def test_an_autoencoder_that_halves_less_often_than_it_has_blocks_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "p", {"encoder_layers_per_block": (1, 0, 1, 1, 1, 1)})
    with pytest.raises(ConfigError, match=r"vae: .* latents of \(8, 16, 16\) .* 256 px; expected \(8, 8, 8\)"):
        load_replica(str(folder), OPTIONS)


def test_sides_that_the_autoencoder_cannot_take_are_refused(found: PipelineFolder) -> None:
    with pytest.raises(ConfigError, match=r"replica\.resolution_px 80 is not a multiple of 32"):
        found.load(LoadOptions(device="cpu", resolution_px=80))
