"""Configs of models as they are published: the allow-lists take them, and see what they are changed in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from raymia.errors import ConfigError
from raymia.replica import tensors
from raymia.replica.families import FAMILIES
from raymia.replica.folder import PipelineFolder, find_pipeline
from raymia.replica.parts import class_of, library_of, weight_stems
from raymia.replica.weight_files import Header
from raymia.testbed.architecture import END_TOKEN, START_TOKEN, _byte_alphabet, _clip_merges
from tests.replica.damaged import change

PUBLISHED = sorted((Path(__file__).parent / "published").glob("*.json"))
"""One file for each model: where its configs are from, and their contents by name."""
TRAINED_AT = {"commoncanvas-s-nc": 512, "commoncanvas-xl-c": 512, "stable-diffusion-2-1": 768}
"""Side in px that some were trained at, by their configs and not by their family."""
FAMILY = {"StableDiffusionPipeline": "stable_diffusion", "StableDiffusionXLPipeline": "sdxl"}


@pytest.fixture(scope="module")
def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's, which is the same in all of them."""
    alphabet, merges = _byte_alphabet(), _clip_merges()
    tokens = [*alphabet, *(symbol + "</w>" for symbol in alphabet), *("".join(pair) for pair in merges), START_TOKEN, END_TOKEN]
    return {token: number for number, token in enumerate(tokens)}, merges


def written(file: Path, target: Path, vocabulary: tuple[dict[str, int], list[tuple[str, str]]]) -> Path:
    """The folder of a published model, without its weights."""
    numbers, merges = vocabulary
    for name, content in json.loads(file.read_text())["files"].items():
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(content))
        if place.name == "tokenizer_config.json":
            (place.parent / "vocab.json").write_text(json.dumps(numbers))
            (place.parent / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges), ""]))
    return target


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_a_published_model_passes_and_its_schedule_is_the_one_it_was_trained_on(
    file: Path, tmp_path: Path, vocabulary: tuple[dict[str, int], list[tuple[str, str]]]
) -> None:
    folder = written(file, tmp_path, vocabulary)
    index = json.loads((folder / "model_index.json").read_text())
    family = FAMILIES.get(FAMILY[index["_class_name"]])()
    found = PipelineFolder(folder, family)
    found.check()
    schedule = found.schedule()
    assert schedule.prediction_type == ("v_prediction" if file.stem == "stable-diffusion-2-1" else "epsilon")
    assert schedule.alpha(999) ** 2 == pytest.approx(0.00466, abs=1e-4)
    assert family.native_px(folder) == TRAINED_AT.get(file.stem, family.native_px(folder))
    assert found.latent_shape(family.resolution_px) == (4, family.resolution_px // 8, family.resolution_px // 8)


def test_all_that_families_take_are_held_against_what_is_published() -> None:
    classes = {json.loads(file.read_text())["files"]["model_index.json"]["_class_name"] for file in PUBLISHED}
    assert classes == set(FAMILY)
    assert len(PUBLISHED) >= 2 * len(FAMILY)


@pytest.mark.parametrize("stem", ["stable-diffusion-v1-5", "stable-diffusion-xl-base-1.0"])
def test_a_published_model_is_complete_with_the_tensors_of_its_classes_and_no_other(
    stem: str, tmp_path: Path, vocabulary: tuple[dict[str, int], list[tuple[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(Path(__file__).parent / "published" / f"{stem}.json", tmp_path, vocabulary)
    found = PipelineFolder(folder, FAMILIES.get("sdxl" if "xl" in stem else "stable_diffusion")())
    headers: dict[str, dict[str, Header]] = {}
    for part, name in weight_stems(found.parts).items():
        save_file({"there": torch.ones(1)}, folder / part / f"{name}.safetensors")
        headers[part] = headers_of(found.parts[part], folder / part)
    # Gigabytes of weights are not made: what their headers would say is.
    monkeypatch.setattr(tensors, "read_headers", lambda weights: headers[weights.files[0].parent.name])
    assert sum(torch.Size(one.shape).numel() for one in headers["unet"].values()) == (2567463684 if "xl" in stem else 859520964)
    found.check_weights()
    for part, name in (("unet", "up_blocks.1.attentions.0.norm.bias"), ("text_encoder", "final_layer_norm.weight")):
        kept = headers[part].pop(name)
        with pytest.raises(ConfigError, match=f"{part}: the weights lack the tensor {name}"):
            found.check_weights()
        headers[part][name] = kept


def headers_of(path: str, folder: Path) -> dict[str, Header]:
    kind = class_of(path)
    with torch.device("meta"):
        if library_of(path) == "transformers":
            model = kind(kind.config_class.from_pretrained(folder))
        else:
            model = kind.from_config(kind.load_config(folder))
    return {name: Header(tuple(tensor.shape), "F16") for name, tensor in model.state_dict().items()}


def test_a_fine_tunes_change_of_what_its_outputs_mean_is_not_lost(
    tmp_path: Path, vocabulary: tuple[dict[str, int], list[tuple[str, str]]]
) -> None:
    folder = written(PUBLISHED[0], tmp_path, vocabulary)
    found = PipelineFolder(folder, FAMILIES.get("sdxl")())
    config = folder / "scheduler" / "scheduler_config.json"
    change(config, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    found.check()
    assert found.schedule("own").prediction_type == "v_prediction"
    assert found.schedule("own").alpha(999) == 0.0
    change(config, prediction_type="sample")
    with pytest.raises(ConfigError, match="prediction_type 'sample'"):
        find_pipeline(str(folder), with_weights=False)
