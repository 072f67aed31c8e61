"""Z-Image in miniature: what is particular to it beside what holds in every family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ZImagePipeline
from torch import Tensor

from raymia.errors import ConfigError
from raymia.replica.families import LoadOptions
from raymia.replica.folder import PipelineFolder, find_pipeline
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.replica.z_image import TEXT_TOKENS
from tests.replica.damaged import TEXT, change, copied, prefixed, rewrite
from tests.replica.families.z_image import CHAT, JOINT, predict, save

OPTIONS = LoadOptions(device="cpu", resolution_px=64)
LENGTHS = ["", "a boat", "of no meaning, " * 20, "a small picture of a boat, " * 200]
"""Prompts of four lengths, the last of which is cut."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> PipelineFolder:
    return find_pipeline(str(save(tmp_path_factory.mktemp("z") / "p", shift=6.0)), with_weights=True)


@pytest.fixture(scope="module")
def replica(found: PipelineFolder) -> LatentDiffusion:
    loaded = found.load(OPTIONS)
    assert isinstance(loaded, LatentDiffusion)
    return loaded


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_prompts_of_any_length_beside_each_other_are_each_what_the_pipeline_makes_of_it_alone(
    found: PipelineFolder, replica: LatentDiffusion
) -> None:
    # An image that is wider than high, whose tokens are filled up to 32.
    told, z = replica.text(LENGTHS), noise(1, 16, 8, 12).expand(4, -1, -1, -1)
    together = replica.schedule.output_from_noise(replica.predicted_noise(z, 300, told), z, 300)
    pipeline = ZImagePipeline.from_pretrained(found.path, use_safetensors=True)
    with torch.no_grad():
        alone = torch.cat([predict(pipeline, z[:1], replica.schedule.sigma(300), [prompt]) for prompt in LENGTHS])
    assert told.mask is not None
    counts = told.mask.sum(1).tolist()
    assert counts == sorted(set(counts))
    assert counts[-1] == TEXT_TOKENS
    assert torch.allclose(together, alone, atol=1e-5)
    # The prompts do make a difference, which the others in the batch do not.
    assert all(float((alone[i] - alone[j]).abs().max()) > 1e-3 for i in range(4) for j in range(i))


def test_states_of_padding_are_not_seen(replica: LatentDiffusion) -> None:
    told, z = replica.text(LENGTHS[:2]), noise(2, 16, 8, 8)
    assert told.mask is not None
    hidden = (1 - told.mask)[..., None] * noise(2, TEXT_TOKENS, JOINT)
    assert torch.allclose(replica.predicted_noise(z, 300, told), replica.predicted_noise(z, 300, told.shifted(hidden, 9.0)))


def test_an_unconditional_prediction_is_there_and_a_guidance_scale_is_refused(found: PipelineFolder) -> None:
    assert not found.family.lacks(found.path)
    with pytest.raises(ConfigError, match=r"replica\.guidance: .* leave it out"):
        found.family.check_options(found.path, LoadOptions(guidance=2.0))


def test_a_text_encoder_as_it_is_published_with_its_head_is_the_same(
    found: PipelineFolder, replica: LatentDiffusion, tmp_path: Path
) -> None:
    target = copied(found.path, tmp_path / "p")
    file = target / "text_encoder" / "config.json"
    config = json.loads(file.read_text())
    theta = config.pop("rope_parameters")["rope_theta"]
    published = {"architectures": ["Qwen3ForCausalLM"], "rope_theta": theta, "rope_scaling": None, "tie_word_embeddings": True}
    file.write_text(json.dumps({**config, **published}))
    rewrite(target / TEXT, prefixed("model."))
    rewrite(target / TEXT, lambda tensors: {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    told, expected = find_pipeline(str(target), with_weights=True).load(OPTIONS).text(LENGTHS).states, replica.text(LENGTHS)
    assert told is not None
    assert expected.states is not None
    assert torch.allclose(told, expected.states, atol=1e-6)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"_class_name": "ZImageOmniPipeline"}, "ZImageOmniPipeline is not supported"),
        ("model_index.json", {"siglip": ["transformers", "Siglip2VisionModel"]}, "has siglip"),
        ("transformer/config.json", {"in_channels": 33}, "in_channels 33, but the autoencoder's 16 give 16"),
        ("transformer/config.json", {"all_patch_size": [4]}, r"all_patch_size is \[4\]; another packing"),
        ("transformer/config.json", {"all_patch_size": [2, 4], "all_f_patch_size": [1, 1]}, "all_patch_size is"),
        ("transformer/config.json", {"siglip_feat_dim": 32}, "siglip_feat_dim is 32; an image beside the noise"),
        ("transformer/config.json", {"n_kv_heads": 1}, "n_kv_heads is 1; attention of heads in groups"),
        ("transformer/config.json", {"cap_feat_dim": 64}, "cap_feat_dim 64, but text_encoder is 48 wide"),
        ("transformer/config.json", {"axes_lens": [513, 64, 64]}, "axes_lens has 513 places .*; expected 514 at least"),
        ("transformer/config.json", {"axes_lens": [640, "64", 64]}, "axes_lens is .*; expected places for the text"),
        ("vae/config.json", {"latents_mean": [0.0] * 16}, "latents_mean"),
        ("text_encoder/config.json", {"architectures": ["Qwen2ForCausalLM"]}, "expected Qwen3Model"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 500}, "num_train_timesteps is 500; expected 1000"),
    ],
)
def test_what_cannot_be_attacked_is_refused_by_field(
    found: PipelineFolder, tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    target = copied(found.path, tmp_path / "p")
    change(target / file, **changes)
    with pytest.raises(ConfigError, match=message):
        find_pipeline(str(target), with_weights=False)


def beside(tokenizer: Path) -> None:
    (tokenizer / "additional_chat_templates").mkdir()
    (tokenizer / "additional_chat_templates" / "default.jinja").write_text(CHAT)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "makes no chat of a prompt"),
        ("{{ nothing.of_it }}", "makes no chat of a prompt"),
        ("{{ ().__class__.__base__ }}", "makes no chat of a prompt"),
        ("a picture", "leaves out the prompt 'a photograph of two small boats'"),
        (CHAT + "{{ strftime_now('%d') }}", "asks for strftime_now, so that no score could be had twice"),
    ],
)
def test_a_template_that_does_not_always_make_the_same_text_of_a_prompt_is_refused(
    found: PipelineFolder, tmp_path: Path, template: str | None, message: str
) -> None:
    target = copied(found.path, tmp_path / "p")
    file = target / "tokenizer" / "chat_template.jinja"
    if template is None:
        file.unlink()
    else:
        file.write_text(template)
    with pytest.raises(ConfigError, match=message):
        find_pipeline(str(target), with_weights=False)


def test_another_template_is_another_model_and_several_are_refused(found: PipelineFolder, tmp_path: Path) -> None:
    target = copied(found.path, tmp_path / "p")
    assert find_pipeline(str(target), with_weights=True).fingerprint() == found.fingerprint()
    (target / "tokenizer" / "chat_template.jinja").write_text(CHAT + "a picture")
    assert find_pipeline(str(target), with_weights=True).fingerprint() != found.fingerprint()
    further = target / "tokenizer" / "additional_chat_templates"
    further.mkdir()
    (further / "default.jinja").write_text(CHAT)
    with pytest.raises(ConfigError, match="additional_chat_templates: several templates of chats"):
        find_pipeline(str(target), with_weights=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution_px": 72}, r"replica\.resolution_px 72 is not a multiple of 16"),
        ({"resolution_px": 2048}, r"replica\.resolution_px: 2048, but the transformer in .* has places for 1024 px"),
        ({"compiled": True}, r"replica\.compile: Z-Image sees each text in its own length"),
    ],
)
def test_what_the_transformer_cannot_be_called_for_is_refused(
    found: PipelineFolder, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        found.load(LoadOptions(**{"device": "cpu", "resolution_px": 64, **options}))
