"""Qwen-Image in miniature: what is particular to it beside what holds in every family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import QwenImagePipeline
from torch import Tensor

from raymia.errors import ConfigError
from raymia.replica.families import LoadOptions
from raymia.replica.folder import PipelineFolder, find_pipeline
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.replica.qwen_image import TEXT_TOKENS
from tests.replica.damaged import TEXT, VAE, change, copied, rewrite
from tests.replica.families.case import PROMPTS
from tests.replica.families.qwen_image import CHANNELS, predict, qwen_tokenizer, save
from tests.replica.test_every_family import calls

OPTIONS = LoadOptions(device="cpu", resolution_px=64)
LENGTHS = ["", "a boat", "of no meaning, " * 40, "a small picture of a boat, " * 300]
"""Prompts of which the last is cut, once by the tokenizer and once more behind it."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> PipelineFolder:
    return find_pipeline(str(save(tmp_path_factory.mktemp("qwen") / "p")), with_weights=True)


@pytest.fixture(scope="module")
def replica(found: PipelineFolder) -> LatentDiffusion:
    loaded = found.load(OPTIONS)
    assert isinstance(loaded, LatentDiffusion)
    return loaded


@pytest.fixture(scope="module")
def pipeline(found: PipelineFolder) -> Any:
    own = QwenImagePipeline.from_pretrained(found.path, use_safetensors=True)
    own.set_progress_bar_config(disable=True)
    return own


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_prompts_of_any_length_beside_each_other_are_each_what_the_pipeline_makes_of_it_alone(
    replica: LatentDiffusion, pipeline: Any
) -> None:
    told, z = replica.text(LENGTHS), noise(1, CHANNELS, 8, 8).expand(4, -1, -1, -1)
    together = replica.schedule.output_from_noise(replica.predicted_noise(z, 300, told), z, 300)
    sigma = replica.schedule.sigma(300)
    with torch.no_grad():
        alone = torch.cat([predict(pipeline, z[:1], sigma, [prompt]) for prompt in LENGTHS])
    assert told.mask is not None
    # Of an empty prompt what stands behind it is left.
    assert told.mask.sum(1)[[0, -1]].tolist() == [5, TEXT_TOKENS]
    assert torch.allclose(together, alone, atol=1e-5)
    # The prompts do make a difference, which the others in the batch do not.
    assert all(float((alone[i] - alone[j]).abs().max()) > 1e-3 for i in range(4) for j in range(i))


def test_states_of_padding_are_not_seen(replica: LatentDiffusion) -> None:
    told, z = replica.text(LENGTHS[:2]), noise(2, CHANNELS, 8, 8)
    assert told.states is not None
    assert told.mask is not None
    hidden = (1 - told.mask)[..., None] * noise(*told.states.shape)
    assert torch.allclose(replica.predicted_noise(z, 300, told), replica.predicted_noise(z, 300, told.shifted(hidden, 9.0)))


def test_a_wide_image_stands_where_the_pipeline_puts_it(replica: LatentDiffusion, pipeline: Any) -> None:
    z = noise(1, CHANNELS, 8, 12)
    (ours,) = calls(replica._denoiser, lambda: replica.predicted_noise(z, 300, replica.text(PROMPTS[:1])))
    own, _ = calls(
        pipeline.transformer,
        lambda: pipeline(PROMPTS[:1], height=64, width=96, num_inference_steps=2, true_cfg_scale=1.0, output_type="latent"),
    )
    assert ours["img_shapes"] == own["img_shapes"] == [[(1, 4, 6)]]


def test_an_unconditional_prediction_is_there_and_a_guidance_scale_is_refused(found: PipelineFolder) -> None:
    assert not found.family.lacks(found.path)
    with pytest.raises(ConfigError, match=r"replica\.guidance: .* leave it out"):
        found.family.check_options(found.path, LoadOptions(guidance=2.0))


def as_former_versions_write(folder: Path, beside_alone: bool) -> None:
    """Bring the text encoder's config and weights into the layout that the published models have."""
    file = folder / "text_encoder" / "config.json"
    config = json.loads(file.read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    text |= {"rope_theta": rope["rope_theta"], "rope_scaling": {"mrope_section": rope["mrope_section"], "type": "default"}}
    beside = {field: value for field, value in text.items() if field not in ("model_type", "layer_types")}
    tokens = {"vision_token_id": 5, "use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 2}
    if not beside_alone:
        config["text_config"] = {**text, "vision_start_token_id": 6, "sliding_window": None, "max_window_layers": 2}
    file.write_text(json.dumps({**config, **beside, **tokens}))
    rewrite(
        folder / TEXT,
        lambda tensors: {
            name.replace("model.visual.", "visual.").replace("model.language_model.", "model."): tensor
            for name, tensor in tensors.items()
        },
    )


@pytest.mark.parametrize("beside_alone", [True, False])
def test_a_text_encoder_in_the_layout_of_former_versions_is_the_same(
    found: PipelineFolder, replica: LatentDiffusion, tmp_path: Path, beside_alone: bool
) -> None:
    target = copied(found.path, tmp_path / "p")
    as_former_versions_write(target, beside_alone)
    change(target / "transformer" / "config.json", pooled_projection_dim=768)
    former = find_pipeline(str(target), with_weights=True).load(OPTIONS)
    told, expected = former.text(PROMPTS).states, replica.text(PROMPTS).states
    assert told is not None
    assert expected is not None
    assert torch.allclose(told, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"_class_name": "QwenImageEditPipeline"}, "QwenImageEditPipeline is not supported"),
        ("model_index.json", {"processor": ["transformers", "Qwen2VLProcessor"]}, "has processor"),
        ("transformer/config.json", {"in_channels": 32}, "in_channels 32, but the autoencoder's 4 give 16"),
        ("transformer/config.json", {"out_channels": 16}, "out_channels 16, but the autoencoder has 4"),
        ("transformer/config.json", {"patch_size": 1}, "patch_size is 1; another packing"),
        ("transformer/config.json", {"guidance_embeds": True}, "guidance_embeds is True; a guidance scale"),
        ("transformer/config.json", {"zero_cond_t": True}, "zero_cond_t is True; an image to edit"),
        ("transformer/config.json", {"use_layer3d_rope": True}, "use_layer3d_rope is True; an image in layers"),
        ("transformer/config.json", {"use_additional_t_cond": True}, "use_additional_t_cond is True"),
        ("transformer/config.json", {"joint_attention_dim": 64}, "joint_attention_dim 64, but text_encoder is 48 wide"),
        ("vae/config.json", {"input_channels": 4}, "input_channels is 4; expected the 3 colours"),
        (
            "vae/config.json",
            {"latents_std": [1.0] * 3},
            r"latents_std is \[.*\]; expected a number for each of the 4",
        ),
        ("vae/config.json", {"latents_std": [1.0, 1.0, 1.0, 0.0]}, "latents_std .* expected numbers above 0"),
        ("vae/config.json", {"latents_mean": None}, "latents_mean is None; expected a number for each"),
        ("vae/config.json", {"temperal_downsample": [False] * 4}, "temperal_downsample has 4 entries and dim_mult 4"),
        ("text_encoder/config.json", {"hidden_size": 64}, "hidden_size is 64 and text_config says 48, which alone is read"),
        ("text_encoder/config.json", {"surprise": 1}, "surprise is 1"),
    ],
)
def test_what_cannot_be_attacked_is_refused_by_field(
    found: PipelineFolder, tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    target = copied(found.path, tmp_path / "p")
    change(target / file, **changes)
    with pytest.raises(ConfigError, match=message):
        find_pipeline(str(target), with_weights=False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"surprise": 1}, "text_config: surprise is 1"),
        ({"model_type": "qwen3"}, "text_config: model_type is 'qwen3'; expected qwen2_5_vl_text"),
        ({"return_dict": False}, "text_config: return_dict is False"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers: describes more than any model has"),
    ],
)
def test_a_config_of_the_text_that_its_class_does_not_follow_is_refused(
    found: PipelineFolder, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    target = copied(found.path, tmp_path / "p")
    file = target / "text_encoder" / "config.json"
    change(file, text_config={**json.loads(file.read_text())["text_config"], **fields})
    with pytest.raises(ConfigError, match=message):
        find_pipeline(str(target), with_weights=False)


def test_a_tokenizer_that_makes_other_tokens_of_what_is_dropped_is_refused(found: PipelineFolder, tmp_path: Path) -> None:
    target = copied(found.path, tmp_path / "p")
    tokenizer = qwen_tokenizer()
    tokenizer.add_tokens([" image by detailing"])
    tokenizer.save_pretrained(target / "tokenizer")
    encoder = target / "text_encoder" / "config.json"
    text = json.loads(encoder.read_text())["text_config"]
    change(encoder, text_config={**text, "vocab_size": len(tokenizer)})
    with pytest.raises(ConfigError, match="makes 32 tokens of what the pipeline puts before a prompt, and the states of 34"):
        find_pipeline(str(target), with_weights=False)


def test_an_autoencoder_whose_latents_are_not_finite_is_refused(found: PipelineFolder, tmp_path: Path) -> None:
    target = copied(found.path, tmp_path / "p")
    rewrite(target / VAE, lambda tensors: {name: tensor * 1e30 for name, tensor in tensors.items()})
    with pytest.raises(ConfigError, match="vae: its latents or images are not finite"):
        find_pipeline(str(target), with_weights=True).load(OPTIONS)


def test_sides_that_cannot_be_packed_are_refused(found: PipelineFolder) -> None:
    with pytest.raises(ConfigError, match=r"replica\.resolution_px 72 is not a multiple of 16"):
        found.load(LoadOptions(device="cpu", resolution_px=72))
