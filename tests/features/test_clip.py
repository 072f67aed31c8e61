"""A CLIP that is not what its config says, or says what is not done, is refused before anything is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from raymia.errors import ConfigError
from raymia.features.clip import CONFIG_FILE, WEIGHTS_FILE, Clip, check_clip, fingerprint, pinned
from raymia.testbed import CLIP
from tests.hub import COMMIT, Hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CLIP, tmp_path / "clip"))


def changed(folder: Path, *place: str, value: Any) -> None:
    content = json.loads((folder / CONFIG_FILE).read_text())
    within = content
    for name in place[:-1]:
        within = within[name]
    within[place[-1]] = value
    (folder / CONFIG_FILE).write_text(json.dumps(content))


def rewritten(folder: Path, edit: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    file = folder / WEIGHTS_FILE
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    save_file(edit(tensors), file)


def test_the_shipped_one_passes(folder: Path) -> None:
    check_clip(str(folder))
    assert Clip(str(folder), torch.device("cpu")).embed_texts(["a picture"]).shape == (1, 64)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("preprocess_cfg", "interpolation"), "bilinear", "preprocess_cfg.interpolation is 'bilinear'; only bicubic"),
        (("preprocess_cfg", "grayscale"), True, "preprocess_cfg.grayscale is True, which is not done"),
        (("preprocess_cfg", "mean"), [0.5], "preprocess_cfg.mean is .* expected three numbers"),
        (("preprocess_cfg", "std"), [0.5, 0.5, 0], "preprocess_cfg.std is .* above 0"),
        (("preprocess_cfg", "std"), None, "preprocess_cfg.std is None"),
        (("preprocess_cfg",), None, "expected an object with model_cfg and preprocess_cfg"),
        (("model_cfg", "text_cfg"), None, "model_cfg.text_cfg: expected an object"),
        (("model_cfg", "text_cfg", "hf_tokenizer_name"), "me/tokenizer", "text_cfg.hf_tokenizer_name: towers and tokenizers"),
        (("model_cfg", "vision_cfg", "timm_model_name"), "vit", "vision_cfg.timm_model_name: towers and tokenizers"),
        (("model_cfg", "vision_cfg", "image_size"), [64, 64], "vision_cfg.image_size is"),
        (("model_cfg", "vision_cfg", "layers"), 4, "the tensor visual.transformer.resblocks.3.* is missing"),
        (("model_cfg", "vision_cfg", "layers"), 2, "and by the config there is none"),
        (("model_cfg", "embed_dim"), 32, "is .*64.*, and by the config .*32"),
        (("model_cfg", "multimodal_cfg"), {}, "no CLIP can be built from open_clip_config.json"),
        (("model_cfg", "vision_cfg", "width"), "wide", "no CLIP can be built from open_clip_config.json"),
    ],
)
def test_a_config_that_says_something_else_is_refused(folder: Path, place: tuple[str, ...], value: Any, message: str) -> None:
    changed(folder, *place, value=value)
    with pytest.raises(ConfigError, match=message):
        check_clip(str(folder))


@pytest.mark.parametrize("text", ["null", "[]", "{", "", "[" * 3000])
def test_a_config_that_is_no_object_is_named(folder: Path, text: str) -> None:
    (folder / CONFIG_FILE).write_text(text)
    with pytest.raises(ConfigError, match=CONFIG_FILE):
        check_clip(str(folder))


def test_weights_that_are_cut_missing_a_tensor_or_not_finite_are_refused(folder: Path) -> None:
    rewritten(folder, lambda tensors: {**tensors, "ln_final.bias": tensors["ln_final.bias"] * float("nan")})
    with pytest.raises(ConfigError, match=r"the tensor ln_final\.bias is not finite"):
        Clip(str(folder), torch.device("cpu"))
    rewritten(folder, lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "ln_final.bias"})
    with pytest.raises(ConfigError, match=r"the tensor ln_final\.bias is missing, and by the config \(24,\)"):
        check_clip(str(folder))
    (folder / WEIGHTS_FILE).write_bytes((folder / WEIGHTS_FILE).read_bytes()[:-50])
    with pytest.raises(ConfigError, match="not readable as safetensors"):
        check_clip(str(folder))
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(ConfigError, match=f"no {WEIGHTS_FILE}"):
        check_clip(str(folder))


def test_a_folder_is_identified_by_all_its_files(folder: Path) -> None:
    assert pinned(str(folder)) == str(folder)
    before = fingerprint(str(folder))
    assert before == fingerprint(str(CLIP))
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        file.write_bytes(content + b" ")
        assert fingerprint(str(folder)) != before
        file.write_bytes(content)
    assert fingerprint(str(folder)) == before


def test_of_the_hub_the_revision_that_was_found_is_the_one_that_is_loaded(hub: type[Hub], folder: Path) -> None:
    hub.folder = folder
    model = pinned("ViT-B-32/openai")
    assert model == f"ViT-B-32/openai@{COMMIT}"
    assert fingerprint(model) == f"timm/vit_base_patch32_clip_224.openai@{COMMIT}"
    hub.asked.clear()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    here = Clip(str(folder), torch.device("cpu")).embed_images(images)
    assert torch.equal(Clip(model, torch.device("cpu")).embed_images(images), here)
    assert hub.asked
    assert all(f"/resolve/{COMMIT}/" in path for path in hub.asked)
    with pytest.raises(ConfigError, match=r"cannot fetch open_clip_config\.json"):
        Clip("ViT-B-32/openai@gone", torch.device("cpu"))
