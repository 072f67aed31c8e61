"""What is particular to FLUX.2 dev: an instruction before texts, a processor in the tokenizer's place, and a guidance scale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Flux2Pipeline

from raymia.config import parse_job
from raymia.errors import ConfigError
from raymia.replica.families import LoadOptions
from raymia.replica.flux2 import TEXT_TOKENS
from raymia.replica.folder import PipelineFolder, find_pipeline
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.scan.told import require_told
from tests.replica.damaged import change, copied, drop
from tests.replica.families.flux2_dev import CASE, CHAT, NAMED, SPECIALS, STATES, save
from tests.replica.test_every_family import loaded

PROMPTS = ["", "a boat", "of no [IMG]meaning, " * 10, "a small picture of a boat, " * 200]
"""Of four lengths, the last of which is cut."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> PipelineFolder:
    return find_pipeline(str(save(tmp_path_factory.mktemp("dev") / "p")), with_weights=True)


@pytest.fixture(scope="module")
def replica(found: PipelineFolder) -> LatentDiffusion:
    return loaded(found, CASE)


def states(replica: LatentDiffusion, prompts: list[str]) -> torch.Tensor:
    told = replica.text(prompts).states
    assert told is not None
    return told


def test_a_width_that_is_not_the_height_is_taken_and_a_side_between_two_latents_is_not(
    found: PipelineFolder, replica: LatentDiffusion
) -> None:
    images = torch.rand(1, 3, 64, 96) * 2 - 1
    z = replica.encode(images)
    assert tuple(z.shape) == (1, 16, 4, 6)
    assert replica.predicted_noise(z, 300, replica.text(["a picture"])).shape == z.shape
    assert replica.decode(z).shape == images.shape
    with pytest.raises(ConfigError, match=r"replica\.resolution_px 72 is not a multiple of 16"):
        found.load(LoadOptions(device="cpu", resolution_px=72))


def test_prompts_beside_each_other_are_each_what_the_pipeline_makes_of_it_alone_and_no_head_is_asked(
    found: PipelineFolder, replica: LatentDiffusion
) -> None:
    pipeline = Flux2Pipeline.from_pretrained(found.path, use_safetensors=True)
    with torch.no_grad():
        alone = torch.cat([pipeline.encode_prompt(prompt)[0] for prompt in PROMPTS])
    asked: list[Any] = []
    encoder = replica._encoder  # type: ignore[attr-defined]
    parts = (encoder.lm_head, encoder.model.vision_tower)
    hooks = [part.register_forward_hook(lambda *call: asked.append(call)) for part in parts]
    try:
        together = states(replica, PROMPTS)
    finally:
        for hook in hooks:
            hook.remove()
    assert not asked
    assert together.shape == (4, TEXT_TOKENS, 3 * STATES)
    assert torch.allclose(together, alone, atol=1e-5)
    assert all(float((alone[i] - alone[j]).abs().max()) > 1e-3 for i in range(4) for j in range(i))


def test_no_caption_is_taken_for_an_image(replica: LatentDiffusion) -> None:
    # What stands for an image once another was taken out, and is cut.
    captions = ["a boat[IM[IMG]G]", "a picture, " * 200 + "[IM[IMG]G]"]
    assert torch.isfinite(states(replica, captions)).all()


def test_the_guidance_scale_is_that_of_the_job_and_one_by_default(found: PipelineFolder, replica: LatentDiffusion) -> None:
    z = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    default, same, other = (
        one.predicted_noise(z, 300, one.text(["a picture"]))
        for one in (replica, loaded(found, CASE, guidance=1.0), loaded(found, CASE, guidance=4.0))
    )
    assert torch.equal(default, same)
    assert not torch.allclose(default, other, atol=1e-4)
    with pytest.raises(ConfigError, match=r"replica\.micro_conditions: .* is told no sizes"):
        found.family.check_options(found.path, LoadOptions(own_sizes=True))


def test_attacks_that_guide_from_an_unconditional_prediction_are_refused_by_name(found: PipelineFolder) -> None:
    replica = {"model": str(found.path), "resolution_px": 64}
    job = parse_job({"manifest": "m", "replica": replica, "attacks": {"denoising": {}}, "run": "r"}, "job.yaml")
    with pytest.raises(ConfigError, match=r"denoising.*distilled under guidance.*replica\.guidance.* set guidance: 1"):
        require_told(job, found)


def as_published(folder: Path) -> Path:
    """Bring the documents of text encoder and processor into the form that transformers 4.57 wrote them in."""
    encoder = folder / "text_encoder" / "config.json"
    config = json.loads(encoder.read_text())
    text, vision = config["text_config"], config["vision_config"]
    for nested in (text, vision):
        nested |= {"dtype": "bfloat16", "rope_theta": nested.pop("rope_parameters")["rope_theta"]}
    for field in ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"):
        del text[field]
    del config["tie_word_embeddings"]
    encoder.write_text(json.dumps({**config, "dtype": "bfloat16", "transformers_version": "4.57.1"}))
    processor = folder / "tokenizer" / "processor_config.json"
    images = json.loads(processor.read_text())["image_processor"]
    drop(processor, "image_processor")
    images |= {"image_processor_type": "PixtralImageProcessorFast", "processor_class": "PixtralProcessor"}
    (folder / "tokenizer" / "preprocessor_config.json").write_text(json.dumps(images))
    plain = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    added = {str(place): {"content": token, "special": True, **plain} for place, token in enumerate(SPECIALS)}
    names = {"additional_special_tokens": SPECIALS, **NAMED}
    (folder / "tokenizer" / "special_tokens_map.json").write_text(json.dumps(names))
    change(
        drop(folder / "tokenizer" / "tokenizer_config.json", "backend"),
        **names,
        add_bos_token=True,
        add_eos_token=False,
        added_tokens_decoder=added,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={},
        legacy=True,
        tokenizer_class="LlamaTokenizer",
        use_default_system_prompt=False,
    )
    return folder


def test_a_folder_as_former_versions_wrote_it_is_the_same(
    found: PipelineFolder, replica: LatentDiffusion, tmp_path: Path
) -> None:
    former = loaded(find_pipeline(str(as_published(copied(found.path, tmp_path / "p"))), with_weights=True), CASE)
    assert torch.equal(states(former, PROMPTS), states(replica, PROMPTS))


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        ("transformer/config.json", {"guidance_embeds": False}, "guidance_embeds is False; no guidance is not supported"),
        ("transformer/config.json", {"joint_attention_dim": STATES}, f"joint_attention_dim {STATES}, but the text's"),
        ("model_index.json", {"tokenizer": ["transformers", "LlamaTokenizerFast"]}, "tokenizer is .*PixtralProcessor"),
        ("text_encoder/config.json", {"quantization_config": {"load_in_4bit": True}}, "quantised weights are not read"),
        ("text_encoder/config.json", {"hidden_size": 64}, "hidden_size is 64 and text_config says 16, which alone is read"),
        ("text_encoder/config.json", {"text_config": None, "rms_norm_eps": 1e-5}, "rms_norm_eps is 1e-05, which"),
        ("tokenizer/tokenizer_config.json", {"processor_class": "LlavaProcessor"}, "processor_class is 'LlavaProcessor'"),
        ("tokenizer/processor_config.json", {"auto_map": {"AutoProcessor": "mine.Mine"}}, "auto_map: names code of its own"),
        (
            "tokenizer/processor_config.json",
            {"image_processor": {"auto_map": {"AutoImageProcessor": "mine.Mine"}}},
            "processor_config.json: auto_map: names code of its own",
        ),
        ("tokenizer/processor_config.json", {"audio_tokenizer": {}}, "tokenizer: audio_tokenizer: names a model elsewhere"),
    ],
)
def test_what_the_family_does_not_do_is_refused_by_field(
    found: PipelineFolder, tmp_path: Path, file: str, fields: dict[str, Any], message: str
) -> None:
    target = copied(found.path, tmp_path / "p")
    change(target / file, **fields)
    with pytest.raises(ConfigError, match=message):
        find_pipeline(str(target), with_weights=False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_hidden_layers": 30}, "num_hidden_layers 30; expected more than 30"),
        ({"model_type": "ministral3"}, "text_config: model_type is 'ministral3'; expected mistral"),
        ({"surprise": 1}, "text_config: surprise is 1"),
    ],
)
def test_another_language_model_is_refused(found: PipelineFolder, tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    target = copied(found.path, tmp_path / "p")
    file = target / "text_encoder" / "config.json"
    change(file, text_config={**json.loads(file.read_text())["text_config"], **fields})
    with pytest.raises(ConfigError, match=message):
        find_pipeline(str(target), with_weights=False)


def test_a_template_is_refused_once_its_date_comes_into_the_text(found: PipelineFolder, tmp_path: Path) -> None:
    assert "strftime_now" in CHAT
    target = copied(found.path, tmp_path / "p")
    (target / "tokenizer" / "chat_template.jinja").write_text(CHAT + "{{ today }}")
    with pytest.raises(ConfigError, match="asks for strftime_now, so that no score could be had twice"):
        find_pipeline(str(target), with_weights=False)
