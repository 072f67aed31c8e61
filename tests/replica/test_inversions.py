"""Textual inversions: the vectors that diffusers reads for a word, switched with it, and refused where they do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from raymia.config import parse_job
from raymia.errors import ConfigError
from raymia.replica.adapters import Adapter
from raymia.replica.families import LoadOptions
from raymia.replica.folder import PipelineFolder, find_pipeline
from raymia.replica.inversions import check_inversion, described_inversion, is_inversion, word_of
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.scan.told import caveats, require_told
from tests.replica.test_adapters import layers, predicted
from tests.replica.test_every_family import cases
from tests.replica.test_identity import job_of

WIDTHS = {"stable_diffusion": {"text_encoder": "clip_l"}, "sdxl": {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}}
PROMPTS = ["a small <cat-toy> on a table", "a picture"]


def found_of(name: str, folder: Path) -> PipelineFolder:
    return find_pipeline(str(cases()[name].save(folder / "p")), with_weights=True)


def load(found: PipelineFolder, *adapters: Adapter) -> LatentDiffusion:
    replica = found.load(LoadOptions(device="cpu", resolution_px=cases()[found.family.name].side_px, adapters=adapters))
    assert isinstance(replica, LatentDiffusion)
    return replica


def vectors(found: PipelineFolder, count: int = 3) -> dict[str, Tensor]:
    """Random vectors of a word, by the text encoder that reads them."""
    kind = getattr(diffusers, found.family.pipelines[0])
    pipeline = kind.from_pretrained(found.path, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    return {
        encoder: torch.randn(count, getattr(pipeline, encoder).config.hidden_size, generator=generator)
        for encoder in WIDTHS[found.family.name]
    }


def written(found: PipelineFolder, of: dict[str, Tensor], file: Path) -> Adapter:
    names = WIDTHS[found.family.name]
    save_file({"<cat-toy>": of["text_encoder"]} if len(of) == 1 else {names[one]: of[one] for one in of}, file)
    return Adapter(file, 1.0, None if len(of) == 1 else "<cat-toy>")


def told(replica: LatentDiffusion, prompts: list[str]) -> list[Tensor]:
    conditioning = replica.text(prompts)
    return [one for one in (conditioning.states, conditioning.pooled) if one is not None]


@pytest.mark.parametrize("name", ["stable_diffusion", "sdxl"])
@pytest.mark.parametrize("count", [1, 3])
def test_the_model_is_told_what_diffusers_tells_it_and_switched_off_is_the_base(name: str, count: int, tmp_path: Path) -> None:
    found = found_of(name, tmp_path)
    of = vectors(found, count)
    adapter = written(found, of, tmp_path / "word.safetensors")
    base, replica = load(found), load(found, adapter)
    pipeline = getattr(diffusers, found.family.pipelines[0]).from_pretrained(found.path, dtype=torch.float32)
    for encoder, tensor in of.items():
        both = [getattr(pipeline, name) for name in (encoder.replace("text_encoder", "tokenizer"), encoder)]
        pipeline.load_textual_inversion(tensor, "<cat-toy>", *both)
    options = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    with torch.no_grad():
        theirs = pipeline.encode_prompt(PROMPTS, **options)
    expected = [theirs[0]] if name == "stable_diffusion" else [theirs[0], theirs[2]]
    for one, two in zip(told(replica, PROMPTS), expected, strict=True):
        assert torch.allclose(one, two, atol=1e-6)
    assert not torch.allclose(told(replica, PROMPTS[:1])[0], told(base, PROMPTS[:1])[0], atol=1e-2)
    assert not replica.told_alike()
    with replica.without_adapters():
        for one, two in zip(told(replica, PROMPTS), told(base, PROMPTS), strict=True):
            assert torch.equal(one, two)
    assert torch.equal(predicted(replica), predicted(base)), "without its word a caption is the base's"


def test_a_word_and_layers_go_together_and_words_stand_alone(tmp_path: Path) -> None:
    found = found_of("stable_diffusion", tmp_path)
    word = written(found, vectors(found), tmp_path / "word.safetensors")
    save_file({name: one.contiguous() for name, one in layers(found, "unet").items()}, tmp_path / "lora.safetensors")
    replica = load(found, Adapter(tmp_path / "lora.safetensors", 0.5), word)
    assert replica.words() == ["<cat-toy>"]
    base = load(found)
    assert not torch.equal(predicted(replica), predicted(base))
    with replica.without_adapters():
        assert torch.equal(predicted(replica), predicted(base))
    named = load(found, Adapter(word.file, 1.0, "cat"))
    for prompt, same in (("a cat", False), ("a category, concat", True), ("a Cat", True)):
        assert torch.equal(told(named, [prompt])[0], told(base, [prompt])[0]) is same


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"emb_params": torch.ones(2, 65)},
            r"has the shape \(2, 65\); text_encoder reads vectors 64 wide: another base",
        ),
        ({"emb_params": torch.ones(76, 64)}, "has 76 vectors; expected 1 to 75"),
        ({"emb_params": torch.ones(0, 64)}, "has 0 vectors"),
        ({"clip_l": torch.ones(2, 64), "clip_g": torch.ones(2, 64)}, "expected the vectors of one text encoder: another base"),
        ({"clip_g": torch.ones(2, 64)}, "expected the vectors of one text encoder"),
        ({" ": torch.ones(2, 64)}, "the word ' ' is none that a caption can hold"),
    ],
)
def test_vectors_of_another_base_are_refused_by_their_header(
    tensors: dict[str, Tensor], message: str, tiny: Path, tmp_path: Path
) -> None:
    file = tmp_path / "x.safetensors"
    save_file(tensors, file)
    assert is_inversion(file)
    with pytest.raises(ConfigError, match=message):
        check_inversion(file, None, "stable_diffusion", tiny)


def test_a_file_says_its_word_and_is_told_from_other_files(tmp_path: Path, tiny: Path) -> None:
    file = tmp_path / "style.safetensors"
    for tensors, word in (({"emb_params": torch.ones(2, 64)}, "style"), ({"<cat>": torch.ones(64)}, "<cat>")):
        save_file(tensors, file)
        assert described_inversion(file)["word"] == word == word_of(file, None)
    assert word_of(file, "dog") == "dog"
    with pytest.raises(ConfigError, match="models of the family flux cannot be told"):
        check_inversion(file, None, "flux", tiny)
    for other in ({"unet.q.lora_A.weight": torch.ones(2, 2)}, {"bias": torch.ones(2, 2, 2)}, {"a.weight": torch.ones(2)}):
        save_file(other, file)
        assert not is_inversion(file)


@pytest.mark.parametrize(
    ("tensors", "fields", "message"),
    [
        ({"<cat>": torch.ones(64)}, {"weight": 0.5}, "a textual inversion has no weight"),
        ({"unet.q.lora_A.weight": torch.ones(2, 2)}, {"token": "<cat>"}, "is no textual inversion, which alone has a word"),
        ({"<cat>": torch.ones(64)}, {}, None),
    ],
)
def test_a_job_says_of_an_adapter_what_it_has(
    tensors: dict[str, Tensor], fields: dict[str, Any], message: str | None, tiny: Path, tmp_path: Path
) -> None:
    file = tmp_path / "x.safetensors"
    save_file(tensors, file)
    content = job_of(str(tiny), tmp_path)
    content["replica"]["adapters"] = [{"path": str(file), **fields}]
    job, found = parse_job(content, "job"), find_pipeline(str(tiny), with_weights=False)
    if message is None:
        require_told(job, found)
        assert "stands for the word '<cat>' in captions; those without it are scored as by" in "".join(caveats(job, found))
    else:
        with pytest.raises(ConfigError, match=message):
            require_told(job, found)


def test_two_words_of_one_name_are_refused(tmp_path: Path) -> None:
    found = found_of("stable_diffusion", tmp_path)
    word = written(found, vectors(found), tmp_path / "word.safetensors")
    with pytest.raises(ConfigError, match="the word '<cat-toy>' has vectors already; set another"):
        load(found, word, word)
