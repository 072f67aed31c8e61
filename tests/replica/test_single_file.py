"""Checkpoints of one file: told apart, turned into the folder that they were made from, or refused by what they are."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FluxTransformer2DModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from raymia.errors import ConfigError
from raymia.replica import single_file
from raymia.replica.families import FAMILIES, LoadOptions
from raymia.replica.folder import PipelineFolder, find_pipeline
from raymia.replica.parts import Parts, weight_stems
from raymia.replica.single_file import KINDS, PACKAGED, VOCABULARY, Said, _converter, look
from raymia.replica.tensors import new_part
from raymia.replica.weight_files import Header
from raymia.testbed.architecture import save_tiny
from tests.replica.families import sd3
from tests.replica.families.sdxl import euler, save_sdxl
from tests.replica.original import (
    Tensors,
    of_sd1,
    of_sdxl,
    original_clip,
    original_flux,
    original_open_clip,
    original_sd3,
    original_unet,
    original_vae,
    tiny_kinds,
    weights,
)

EPSILON = Said(prediction_type="epsilon")
V = Said(prediction_type="v_prediction", zero_terminal_snr=False)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYMIA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture(scope="module")
def tiny_sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd1") / "pipeline"
    save_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sdxl(tmp_path_factory.mktemp("sdxl") / "pipeline", DDIMScheduler.from_config(euler().config))


def same(found: Path, expected: Path, parts: Any) -> None:
    for part in weight_stems(parts):
        ours, theirs = weights(found, part), weights(expected, part)
        ours = {name.removeprefix("text_model."): tensor for name, tensor in ours.items()}
        theirs = {name.removeprefix("text_model."): tensor for name, tensor in theirs.items()}
        assert ours.keys() == theirs.keys(), part
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), part


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_a_file_becomes_the_folder_that_it_was_made_from_and_predicts_alike(
    name: str, tiny_sd1: Path, tiny_sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, original = (tiny_sd1, of_sd1) if name == "sd1" else (tiny_sdxl, of_sdxl)
    monkeypatch.setattr(single_file, "KINDS", tiny_kinds(name, folder))
    file = tmp_path / "model.safetensors"
    save_file(original(folder), file)
    found = find_pipeline(str(file), with_weights=False, said=EPSILON)
    same(found.path, folder, found.parts)
    options = LoadOptions(device="cpu", resolution_px=64)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    outputs = []
    for pipeline in (found, find_pipeline(str(folder), with_weights=True)):
        replica = pipeline.load(options)
        told = replica.text(["a small picture", "a picture"])
        outputs.append(replica.predicted_noise(latents, torch.tensor([100, 300]), told))
    assert torch.equal(*outputs)
    moved = tmp_path / "elsewhere.safetensors"
    shutil.copy(file, moved)
    again = find_pipeline(str(moved), with_weights=True, said=EPSILON)
    assert (again.path, again.fingerprint()) == (found.path, found.fingerprint())
    other = find_pipeline(str(file), with_weights=True, said=V)
    assert other.fingerprint() != found.fingerprint()
    assert other.schedule("own").prediction_type == "v_prediction"


def test_a_transformer_takes_the_rest_from_the_jobs_base(tmp_path: Path) -> None:
    base = sd3.save(tmp_path / "base")
    state = {name: tensor + 0.01 for name, tensor in weights(base, "transformer").items()}
    file = tmp_path / "model.safetensors"
    save_file(original_sd3(state), file)
    with pytest.raises(ConfigError, match=r"needs replica\.base"):
        find_pipeline(str(file), with_weights=False)
    found = find_pipeline(str(file), with_weights=False, said=Said(base=str(base)))
    assert found.family.name == "sd3"
    made = weights(found.path, "transformer")
    assert made.keys() == state.keys()
    assert all(torch.equal(made[name], state[name]) for name in made)
    for part in ("vae", "text_encoder", "text_encoder_3"):
        assert weights(found.path, part).keys() == weights(base, part).keys()
    found.load(LoadOptions(device="cpu", resolution_px=64))
    with pytest.raises(ConfigError, match=r"replica\.prediction_type: .* rectified flow"):
        find_pipeline(str(file), with_weights=False, said=Said(base=str(base), prediction_type="epsilon"))


@pytest.mark.parametrize("guided", [True, False])
def test_flux_has_the_tensors_of_its_class_at_its_own_width(guided: bool) -> None:
    with torch.device("meta"):
        state = FluxTransformer2DModel(num_layers=2, num_single_layers=2, guidance_embeds=guided).state_dict()
    original = original_flux(state)
    kind = single_file._kind({name: Header(tuple(one.shape), "F16") for name, one in original.items()}, "x")
    assert kind.name == ("flux-dev" if guided else "flux-schnell")
    made = _converter(kind, "transformer")(original, {})
    assert {name: one.shape for name, one in made.items()} == {name: one.shape for name, one in state.items()}


def test_what_a_file_lacks_is_named_and_taken_from_the_base(
    tiny_sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single_file, "KINDS", tiny_kinds("sdxl", tiny_sdxl))
    file = tmp_path / "model.safetensors"
    save_file({name: one for name, one in of_sdxl(tiny_sdxl).items() if not name.startswith("first_stage_model.")}, file)
    with pytest.raises(ConfigError, match=r"a SDXL without its vae; set replica\.base"):
        find_pipeline(str(file), with_weights=False, said=EPSILON)
    found = find_pipeline(str(file), with_weights=False, said=replace(EPSILON, base=str(tiny_sdxl)))
    same(found.path, tiny_sdxl, found.parts)


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PipelineFolder]:
    """The packaged configs as pipeline folders, at the models' own size."""
    found = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp("packaged") / kind.name
        shutil.copytree(PACKAGED / kind.name, folder)
        for tokenizer in folder.glob("tokenizer*"):
            shutil.copytree(VOCABULARY, tokenizer, dirs_exist_ok=True)
        found[kind.name] = PipelineFolder(folder, FAMILIES.get(kind.family)())
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_packaged_configs_are_of_the_models_that_files_hold(kind: Any, packaged: dict[str, PipelineFolder]) -> None:
    folder = packaged[kind.name]
    folder.check()
    parts = Parts(folder.path, folder.parts)
    with torch.device("meta"):
        state = {part: new_part(parts, part).state_dict() for part in weight_stems(folder.parts)}
    layers = (2, 3 if kind.name == "sdxl" else 4)
    original = {**original_unet(state["unet"], *layers), **original_vae(state["vae"])}
    for part, prefix in kind.prefixes.items():
        invert = original_clip if prefix.endswith(".transformer.") else original_open_clip
        original |= invert(state[part], prefix)
    headers = {name: Header(tuple(one.shape), "F16") for name, one in original.items()}
    assert single_file._kind(headers, "x") is kind
    for part, names in single_file._held(headers, kind).items():
        config = json.loads((folder.path / part / "config.json").read_text())
        made = _converter(kind, part)({name: original[name] for name in names}, config)
        ours = {name.removeprefix("text_model."): one.shape for name, one in made.items()}
        assert ours == {name.removeprefix("text_model."): one.shape for name, one in state[part].items()}, part


def test_the_packaged_vocabulary_is_clips(packaged: dict[str, PipelineFolder]) -> None:
    for name, folder in packaged.items():
        for part in [part for part in folder.parts if part.startswith("tokenizer")]:
            tokenizer = CLIPTokenizer.from_pretrained(folder.path / part)
            ids = tokenizer("a photo of a cat", padding="max_length", max_length=9).input_ids
            padding = 0 if name == "sd2" or part == "tokenizer_2" else 49407
            assert ids == [49406, 320, 1125, 539, 320, 2368, 49407, padding, padding]
            assert tokenizer.model_max_length == 77


def test_stable_diffusion_2_is_read_without_the_last_layer_of_its_text_encoder() -> None:
    kind = next(kind for kind in KINDS if kind.name == "sd2")
    config = CLIPTextConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=24,
        num_attention_heads=2,
        max_position_embeddings=4,
    )
    state = {name: one.clone() for name, one in CLIPTextModel(config).state_dict().items()}
    original = original_open_clip(state, "cond_stage_model.model.")
    original["cond_stage_model.model.text_projection"] = torch.ones(8, 8)
    kept = {name: one for name, one in original.items() if not single_file.DROPPED.match(name)}
    made = {
        name.removeprefix("text_model."): one
        for name, one in _converter(kind, "text_encoder")(kept, {"hidden_size": 8}).items()
    }
    expected = {name.removeprefix("text_model."): one for name, one in state.items() if "layers.23." not in name}
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[name], expected[name]) for name in made)


def unet_headers(context: int = 768, added: int | None = None, channels: int = 4) -> Tensors:
    """Enough of a UNet to tell it by."""
    block = "model.diffusion_model.input_blocks."
    label = {} if added is None else {"model.diffusion_model.label_emb.0.0.weight": torch.ones(4, added)}
    return {
        f"{block}0.0.weight": torch.ones(4, channels, 3, 3),
        f"{block}1.1.transformer_blocks.0.attn2.to_k.weight": torch.ones(4, context),
        **label,
    }


SDXL = {"context": 2048, "added": 2816}


@pytest.mark.parametrize(
    ("tensors", "metadata", "said", "expected"),
    [
        ({}, {}, EPSILON, ("epsilon", False)),
        ({}, {"modelspec.prediction_type": "epsilon"}, Said(), ("epsilon", False)),
        ({"v_pred": torch.ones(1)}, {}, Said(), ("v_prediction", False)),
        ({"v_pred": torch.ones(1), "ztsnr": torch.ones(1)}, {}, Said(), ("v_prediction", True)),
        ({}, {"modelspec.prediction_type": "v"}, Said(zero_terminal_snr=True), ("v_prediction", True)),
        ({}, {"modelspec.architecture": "stable-diffusion-v2-768-v"}, Said(), ("v_prediction", False)),
        ({}, {"modelspec.architecture": "stable-diffusion-xl-v1-base"}, Said(), "set replica.prediction_type"),
        ({}, {"modelspec.prediction_type": "v"}, Said(), "set replica.zero_terminal_snr"),
        ({"v_pred": torch.ones(1)}, {}, EPSILON, "v_pred says v_prediction but replica.prediction_type says epsilon"),
        (
            {"v_pred": torch.ones(1)},
            {"modelspec.prediction_type": "epsilon"},
            Said(),
            "v_pred says .* but the metadata .* says eps",
        ),
        (
            {"v_pred": torch.ones(1), "ztsnr": torch.ones(1)},
            {},
            Said(zero_terminal_snr=False),
            "ztsnr says true but replica.zero_terminal_snr says false",
        ),
        ({}, {"modelspec.prediction_type": "x0"}, Said(), "modelspec.prediction_type is 'x0'"),
    ],
)
def test_what_a_file_puts_out_is_told_by_it_or_by_the_job_and_never_guessed(
    tensors: Tensors, metadata: dict[str, str], said: Said, expected: object, tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    save_file({**unet_headers(**SDXL), **tensors}, file, metadata)
    if isinstance(expected, tuple):
        assert single_file.settle(look(str(file)), said) == expected
    else:
        with pytest.raises(ConfigError, match=str(expected)):
            single_file.settle(look(str(file)), said)


one = torch.ones(1)


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        (unet_headers(channels=9), "9 input channels, for inpainting"),
        (unet_headers(channels=8), "for editing"),
        (unet_headers(1280, 2560), "an SDXL refiner"),
        (unet_headers(1024, 2048), "further condition 2048 wide"),
        ({**unet_headers(), **{f"model_ema.{i}": torch.ones(1) for i in range(9)}}, "two denoisers"),
        ({**unet_headers(**SDXL), "edm_vpred.sigma_max": one}, "EDM"),
        ({**unet_headers(), "control_model.input_hint_block.0.weight": one}, "a ControlNet"),
        ({"lora_unet_down_blocks_0.lora_down.weight": one}, "a LoRA or its like.* as an adapter"),
        ({"unet.down_blocks.0.lora_A.weight": one}, "a LoRA or its like"),
        ({"emb_params": torch.ones(2, 768)}, "a textual inversion"),
        ({"encoder.down.0.block.0.conv1.weight": one, "decoder.conv_in.weight": one}, "an autoencoder alone"),
        ({"text_model.embeddings.token_embedding.weight": one}, "a text encoder alone"),
        ({"down_blocks.0.resnets.0.conv1.weight": one}, "in diffusers' own layout"),
        (
            {"double_blocks.0.img_attn.qkv.weight": one, "img_in.weight": torch.ones(3072, 384)},
            "384 channels; expected 64: Fill",
        ),
        ({"double_blocks.0.img_attn.qkv.weight": one, "distilled_guidance_layer.in_proj.bias": one}, "a Chroma"),
        ({"something": one}, "none of Stable Diffusion 1.x"),
        ({**unet_headers(), "model.diffusion_model.out.2.weight": torch.ones(2).to(torch.float8_e4m3fn)}, "stored as F8_E4M3"),
        ({**unet_headers(), "model.diffusion_model.out.2.weight.absmax": one}, "quantised"),
    ],
)
def test_a_file_that_is_no_whole_model_is_refused_by_what_it_is(tensors: Tensors, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, file)
    with pytest.raises(ConfigError, match=expected):
        look(str(file))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("m.ckpt", "weights_only=True"), ("m.PT", "never loaded"), ("m.gguf", "no such file"), ("m.safetensors", "no such file")],
)
def test_a_name_that_no_weights_are_read_from_is_refused_with_what_to_do(name: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=expected):
        find_pipeline(str(tmp_path / name), with_weights=False)


def test_tensors_without_a_place_and_those_that_lack_are_refused(
    tiny_sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr(single_file, "KINDS", tiny_kinds("sd1", tiny_sd1))
    original, file = of_sd1(tiny_sd1), tmp_path / "model.safetensors"
    extra = {"model.diffusion_model.another.weight": torch.ones(3)}
    save_file({**original, **extra}, file)
    with pytest.raises(ConfigError, match=r"unet: 3 of \d+ numbers have no place"):
        find_pipeline(str(file), with_weights=False, said=EPSILON)
    assert not [path for path in cache.iterdir() if path.is_dir()]
    kept = original.pop("first_stage_model.encoder.down.2.downsample.conv.bias")
    save_file(original, file)
    with pytest.raises(ConfigError, match=r"its vae lacks what becomes encoder\.down_blocks\.2\.downsamplers\.0\.conv\.bias"):
        find_pipeline(str(file), with_weights=False, said=EPSILON)
    original["first_stage_model.encoder.down.2.downsample.conv.bias"] = kept
    original.pop("model.diffusion_model.out.2.bias")
    save_file(original, file)
    with pytest.raises(ConfigError, match=r"the weights lack the tensor conv_out\.bias"):
        find_pipeline(str(file), with_weights=False, said=EPSILON)


def test_what_is_said_of_a_folder_is_refused(tiny_sd1: Path) -> None:
    with pytest.raises(ConfigError, match=r"replica\.prediction_type: is of a model in a single file"):
        find_pipeline(str(tiny_sd1), with_weights=False, said=EPSILON)
