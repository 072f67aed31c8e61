"""Weights that are not those of their config, by their headers: nothing is loaded before they are refused."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel

from raymia.errors import ConfigError
from raymia.replica import parts as parts_module
from raymia.replica.families import LoadOptions
from raymia.replica.folder import find_pipeline, load_replica
from raymia.replica.parts import Parts
from raymia.replica.stable_diffusion import StableDiffusion
from tests.replica.damaged import TEXT, UNET, VAE, change, copied, drop, prefixed, rewrite, without

Edit = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    return copied(tiny, tmp_path / "pipeline")


def refused(folder: Path, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dry run refuses it; no loader is asked."""

    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    with monkeypatch.context() as patched:
        patched.setattr(Parts, "model", loaded)
        with pytest.raises(ConfigError, match=message):
            find_pipeline(str(folder), with_weights=False)


def renamed(old: str, new: str) -> Edit:
    return lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()}


def with_more(**more: Tensor) -> Edit:
    return lambda tensors: {**tensors, **more}


def as_dtype(beginning: str, dtype: torch.dtype) -> Edit:
    return lambda tensors: {name: t.to(dtype) if name.startswith(beginning) else t for name, t in tensors.items()}


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        (
            UNET,
            without("conv_out.bias"),
            "unet: the weights lack the tensor conv_out.bias, which UNet2DConditionModel has by the config",
        ),
        (UNET, without("mid_block"), r"lack the tensor mid_block\.\S+ and \d+ more"),
        (
            UNET,
            with_more(**{"extra.weight": torch.ones(3)}),
            "have the tensor extra.weight, which UNet2DConditionModel has not",
        ),
        (UNET, renamed("time_embedding", "time_embed"), r"lack the tensor time_embedding\."),
        (UNET, prefixed("module."), "unet: the weights lack the tensor"),
        (UNET, lambda t: {**t, "conv_in.bias": t["conv_in.bias"][:5]}, r"conv_in.bias is \(5,\) in the weights and \(32,\) by"),
        (UNET, as_dtype("conv_in.weight", torch.int8), "conv_in.weight is stored as I8; quantised"),
        (UNET, as_dtype("conv_in.weight", torch.float8_e4m3fn), "conv_in.weight is stored as F8_E4M3; quantised"),
        (
            VAE,
            without("decoder.conv_out"),
            "vae: the weights lack the tensor decoder.conv_out.bias and 1 more, which AutoencoderKL has",
        ),
        (VAE, without("quant_conv"), "vae: the weights lack the tensor quant_conv"),
        (VAE, with_more(**{"bn.running_mean": torch.ones(3)}), "have the tensor bn.running_mean"),
        (TEXT, prefixed("clip.text_model."), "text_encoder: the weights lack the tensor"),
        (TEXT, without("encoder.layers.1"), r"lack the tensor encoder\.layers\.1\.\S+ and 15 more, which CLIPTextModel has"),
        (TEXT, without("final_layer_norm.bias"), "lack the tensor final_layer_norm.bias, which CLIPTextModel"),
        (TEXT, with_more(**{"vision_model.weight": torch.ones(3)}), "have the tensor vision_model.weight"),
        (
            TEXT,
            lambda t: {**t, "embeddings.position_embedding.weight": torch.ones(16, 64)},
            r"embeddings.position_embedding.weight is \(16, 64\) in the weights and \(32, 64\)",
        ),
        (TEXT, as_dtype("final_layer_norm.bias", torch.uint8), "final_layer_norm.bias is stored as U8"),
    ],
)
def test_a_tensor_that_is_missing_left_over_or_another_is_named_before_anything_is_loaded(
    folder: Path, file: str, edit: Edit, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite(folder / file, edit)
    refused(folder, message, monkeypatch)


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        ("text_encoder", {"num_hidden_layers": 3}, r"lack the tensor encoder\.layers\.2\."),
        (
            "text_encoder",
            {"num_hidden_layers": 1},
            r"have the tensor encoder\.layers\.1\.\S+ and 15 more, which CLIPTextModel has not",
        ),
        ("text_encoder", {"intermediate_size": 10**9}, r"the config describes \d+ values and the weights hold"),
        ("text_encoder", {"num_hidden_layers": 10**9}, "num_hidden_layers: describes more than any model has"),
        ("text_encoder", {"num_attention_heads": 5}, "no CLIPTextModel can be built from it"),
        ("unet", {"layers_per_block": 2}, r"lack the tensor down_blocks"),
        ("unet", {"up_block_types": ["UpBlock2D"] * 3}, r"have the tensor up_blocks\.\d\.attentions"),
        ("unet", {"norm_num_groups": 7}, "no UNet2DConditionModel can be built from it"),
        ("unet", {"conv_in_kernel": 5}, r"conv_in.weight is \(32, 4, 3, 3\) in the weights and \(32, 4, 5, 5\) by the config"),
        ("unet", {"block_out_channels": [32, 64, 128]}, r"lack the tensor down_blocks\.2"),
        ("unet", {"down_block_types": ["Odd"] * 3}, "no UNet2DConditionModel can be built from it"),
        ("unet", {"block_out_channels": "wide"}, "no UNet2DConditionModel can be built from it"),
        ("unet", {"block_out_channels": [10**20] * 3}, "unet"),
        ("vae", {"use_quant_conv": False}, "have the tensor quant_conv"),
    ],
)
def test_a_config_of_another_model_than_the_weights_is_refused(
    folder: Path, part: str, fields: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(folder / part / "config.json", **fields)
    refused(folder, message, monkeypatch)


def test_names_that_the_libraries_turn_into_todays_are_taken(folder: Path, tiny: Path) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def before_2023(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        renamed = {}
        for name, tensor in tensors.items():
            for new, former in old.items():
                name = name.replace(f"attentions.0.{new}.", f"attentions.0.{former}.")
            renamed[name] = tensor
        return renamed

    assert any("proj_attn" in name for name in load_file(rewrite(folder / VAE, before_2023)))
    rewrite(folder / TEXT, prefixed("text_model."))
    idle = {"text_model.embeddings.position_ids": torch.arange(32)[None], "text_projection.weight": torch.ones(64, 64)}
    rewrite(folder / TEXT, with_more(**idle))
    options = LoadOptions(device="cpu", resolution_px=64)
    plain, renamed = (load_replica(str(place), options) for place in (tiny, folder))
    images, prompts = torch.rand(1, 3, 64, 64), ["a small picture"]
    assert torch.equal(plain.encode(images), renamed.encode(images))
    assert torch.equal(plain.text(prompts).states, renamed.text(prompts).states)


@pytest.mark.parametrize(
    ("file", "name"), [(UNET, "conv_out.bias"), (VAE, "encoder.conv_in.bias"), (TEXT, "final_layer_norm.bias")]
)
def test_what_the_headers_did_not_show_is_refused_when_it_is_loaded(folder: Path, file: str, name: str) -> None:
    found = find_pipeline(str(folder), with_weights=True)
    rewrite(folder / file, without(name))  # exchanged since it was checked
    with pytest.raises(ConfigError, match=f"lack the tensor {name}"):
        found.load(LoadOptions(device="cpu", resolution_px=64))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("file", "name"),
    [(UNET, "mid_block.resnets.0.conv1.weight"), (VAE, "decoder.conv_in.bias"), (TEXT, "embeddings.token_embedding.weight")],
)
def test_one_number_that_is_not_finite_is_refused_by_its_tensor(folder: Path, file: str, name: str, value: float) -> None:
    def spoil(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors[name].view(-1)[3] = value
        return tensors

    rewrite(folder / file, spoil)
    with pytest.raises(ConfigError, match=f"the tensor {name} is not finite in float32"):
        load_replica(str(folder), LoadOptions(device="cpu", resolution_px=64))


def test_a_number_beyond_the_dtype_of_the_job_is_refused(folder: Path) -> None:
    def enlarge(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: t.float() * (1e6 if name == "conv_in.bias" else 1) for name, t in tensors.items()}

    rewrite(folder / UNET, lambda tensors: enlarge({**tensors, "conv_in.bias": torch.ones(32)}))
    with pytest.raises(ConfigError, match=r"conv_in.bias is not finite in float16; .* wider replica.dtype"):
        load_replica(str(folder), LoadOptions(dtype="float16", device="cpu", resolution_px=64))


def broken(content: bytes) -> dict[str, bytes]:
    """Ways in which a download or a disk ruins a file."""
    length = struct.unpack("<Q", content[:8])[0]
    return {
        "empty": b"",
        "cut in the header": content[: length // 2],
        "cut in the tensors": content[:-100],
        "a length of 2^63": struct.pack("<Q", 2**63) + content[8:],
        "a length of 90 MB": struct.pack("<Q", 90_000_000) + content[8:],
        "a header of zeros": content[:8] + bytes(length) + content[8 + length :],
        "an HTML page": b"<!DOCTYPE html><html>Not found</html>",
        "a header nested deeply": struct.pack("<Q", 6000) + b"[" * 6000,
    }


@pytest.mark.parametrize("way", broken(struct.pack("<Q", 4) + b"{}  "))
def test_a_file_that_is_no_safetensors_is_named(folder: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / UNET
    file.write_bytes(broken(file.read_bytes())[way])
    refused(folder, r"diffusion_pytorch_model\.safetensors: not readable as safetensors", monkeypatch)


def test_a_pointer_of_git_lfs_is_told_from_damage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / VAE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 334643276\n")
    refused(
        folder,
        r"vae/diffusion_pytorch_model\.safetensors: a pointer of git-lfs and no weights; run `git lfs pull`",
        monkeypatch,
    )


@pytest.mark.parametrize(
    "error", [MemoryError("no memory"), RecursionError("too deep"), KeyError("odd"), AttributeError("gone")]
)
def test_whatever_a_loader_raises_is_one_line_that_names_the_part(
    tiny: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    found = find_pipeline(str(tiny), with_weights=True)
    for kind, part in ((UNet2DConditionModel, "unet"), (CLIPTextModel, "text_encoder")):
        with monkeypatch.context() as patched:
            patched.setattr(kind, "from_pretrained", fails)
            with pytest.raises(ConfigError, match=f"{part}: cannot be loaded as a {kind.__name__}: {type(error).__name__}"):
                found.load(LoadOptions(device="cpu", resolution_px=64))


def test_a_tokenizer_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").write_text("{" * 5000)
    with pytest.raises(ConfigError, match="tokenizer: cannot be loaded as a CLIPTokenizer"):
        find_pipeline(str(folder), with_weights=False)


def test_a_class_that_the_library_lacks_is_named(tiny: Path) -> None:
    with pytest.raises(ConfigError, match=r"diffusers\.NoSuchModel: cannot be imported"):
        parts_module.class_of("diffusers.NoSuchModel")
    assert set(StableDiffusion.parts) == {"unet", "vae", "text_encoder", "tokenizer"}


def shard(folder: Path, variant: str | None = None, count: int = 2) -> Path:
    """Split the UNet's weights into shards; return the index."""
    single = folder / UNET
    tensors = load_file(single)
    single.unlink()
    infix = f".{variant}" if variant else ""
    names = sorted(tensors)
    placed = {}
    for i in range(count):
        file = f"diffusion_pytorch_model{infix}-{i + 1:05d}-of-{count:05d}.safetensors"
        mine = names[i::count]
        save_file({name: tensors[name] for name in mine}, single.parent / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(mine, file)
    index = single.parent / f"diffusion_pytorch_model.safetensors.index{infix}.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": placed}))
    return index


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_are_one_model_whatever_their_variant(folder: Path, tiny: Path, variant: str | None) -> None:
    shard(folder, variant)
    options = LoadOptions(device="cpu", resolution_px=64)
    whole, parted = (load_replica(str(place), options) for place in (tiny, folder))
    z, told = torch.randn(1, 4, 8, 8), whole.text(["a picture"])
    assert torch.equal(whole.predicted_noise(z, 300, told), parted.predicted_noise(z, 300, told))


def test_shards_that_their_index_does_not_describe_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = shard(folder)
    good = json.loads(index.read_text())
    placed = good["weight_map"]
    first, second = sorted(set(placed.values()))
    cases: list[tuple[dict[str, Any], str]] = [
        (
            {**good, "weight_map": {**placed, "conv_in.bias": "../vae/diffusion_pytorch_model.safetensors"}},
            "expected the name of a",
        ),
        ({**good, "weight_map": {**placed, "conv_in.bias": 7}}, "names the file 7"),
        ({**good, "weight_map": {**placed, "conv_in.bias": "gone.safetensors"}}, "names gone.safetensors, which is not there"),
        (
            {**good, "weight_map": {**placed, "conv_in.bias": second if placed["conv_in.bias"] == first else first}},
            "conv_in.bias is in",
        ),
        ({**good, "weight_map": {k: v for k, v in placed.items() if k != "conv_in.bias"}}, "conv_in.bias is in no file"),
        ({**good, "weight_map": {**placed, "odd": first}}, "the tensor odd is in"),
        ({"metadata": {}}, "expected a weight_map"),
        ({**good, "weight_map": []}, "expected a weight_map"),
    ]
    for content, message in cases:
        index.write_text(json.dumps(content))
        refused(folder, message, monkeypatch)
    index.write_text(json.dumps(good))
    twice = load_file(folder / "unet" / first) | {"conv_out.bias": torch.ones(4)}
    save_file(twice, folder / "unet" / first)
    save_file(load_file(folder / "unet" / second) | {"conv_out.bias": torch.ones(4)}, folder / "unet" / second)
    refused(folder, "has the tensor conv_out.bias, which .* has too", monkeypatch)
    index.unlink()
    refused(folder, r"has only .*-00001-of-00002.safetensors.* no diffusion_pytorch_model.safetensors.index.json", monkeypatch)


def test_each_part_is_of_its_own_variant(folder: Path, tiny: Path) -> None:
    (folder / UNET).rename(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    (folder / TEXT).rename(folder / "text_encoder" / "model.fp16.safetensors")
    found = find_pipeline(str(folder), with_weights=True)
    assert {part: weights.variant for part, weights in found.weights.items()} == {
        "unet": "fp16",
        "vae": None,
        "text_encoder": "fp16",
    }
    options = LoadOptions(device="cpu", resolution_px=64)
    z, told = torch.randn(1, 4, 8, 8), found.load(options).text(["a picture"])
    assert torch.equal(
        found.load(options).predicted_noise(z, 300, told), load_replica(str(tiny), options).predicted_noise(z, 300, told)
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "diffusion_pytorch_model.non_ema.safetensors",
            r"unet: has only diffusion_pytorch_model.non_ema.safetensors; expected",
        ),
        ("diffusion_pytorch_model.bf16.safetensors", r"unet: has only diffusion_pytorch_model.bf16.safetensors"),
        ("model.safetensors", r"unet: has only model.safetensors; expected diffusion_pytorch_model.safetensors or"),
        ("diffusion_pytorch_model.bin", "no safetensors weights, only diffusion_pytorch_model.bin: pickled weights are never"),
        ("weights.txt", "unet: no safetensors weights; expected"),
    ],
)
def test_weights_under_another_name_are_named(folder: Path, name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / UNET).rename(folder / "unet" / name)
    refused(folder, message, monkeypatch)


def test_weights_beside_other_weights_are_not_chosen_by_chance(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(folder / UNET, folder / "kept")
    shard(folder)
    shutil.copy(folder / "kept", folder / UNET)
    refused(
        folder, "has both diffusion_pytorch_model.safetensors and diffusion_pytorch_model.safetensors.index.json", monkeypatch
    )


@pytest.mark.parametrize("name", ["adapter_config.json", "shard-00000-model-00001-of-00002.safetensors"])
def test_files_for_which_a_library_loads_something_else_are_refused(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "text_encoder" / name).write_text("{}")
    refused(folder, f"text_encoder/{name}: an? (adapter|distributed checkpoint)", monkeypatch)


def test_a_config_that_leaves_a_field_to_its_class_is_read_as_its_class_does(folder: Path) -> None:
    drop(folder / "vae" / "config.json", "scaling_factor", "force_upcast")
    drop(folder / "unet" / "config.json", "in_channels", "out_channels", "time_cond_proj_dim")
    replica = load_replica(str(folder), LoadOptions(device="cpu", resolution_px=64))
    assert replica.latent_shape(64, 64) == (4, 8, 8)
