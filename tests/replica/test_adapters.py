"""LoRA and LoKr on a model: unfused, whole, and refused where they would be dropped in part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoKrConfig, LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from raymia.errors import ConfigError
from raymia.replica.adapters import Adapter, check_adapter, find_adapter
from raymia.replica.families import LoadOptions
from raymia.replica.folder import PipelineFolder, find_pipeline
from raymia.replica.latent_diffusion import LatentDiffusion
from tests.replica.test_every_family import cases

ATTENTION = ["to_q", "to_k", "to_v"]
TAKING = ["stable_diffusion", "sdxl", "sd3", "flux", "qwen_image", "z_image"]


def found_of(name: str, folder: Path) -> PipelineFolder:
    return find_pipeline(str(cases()[name].save(folder / "p")), with_weights=True)


def layers(found: PipelineFolder, part: str, kind: Any = LoraConfig, modules: list[str] | None = None) -> dict[str, Tensor]:
    """Random layers of an adapter, as peft names them."""
    replica = load(found)
    pipeline_part = replica._denoiser if part in ("unet", "transformer") else replica._text_modules[0]
    pipeline_part.add_adapter(kind(r=2, target_modules=modules or ATTENTION))
    generator = torch.Generator().manual_seed(0)
    state = get_peft_model_state_dict(pipeline_part)
    return {f"{part}.{name}": torch.randn(one.shape, generator=generator) * 0.3 for name, one in state.items()}


def load(found: PipelineFolder, *adapters: Adapter, **options: Any) -> LatentDiffusion:
    side = cases()[found.family.name].side_px
    replica = found.load(LoadOptions(**{"device": "cpu", "resolution_px": side, "adapters": adapters, **options}))
    assert isinstance(replica, LatentDiffusion)
    return replica


def saved(tensors: dict[str, Tensor], file: Path, **metadata: str) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata or None)
    return file


def predicted(replica: LatentDiffusion) -> Tensor:
    side = cases()[replica.family.name].side_px
    z = torch.randn(2, *replica.latent_shape(side, side), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return replica.predicted_noise(z, 300, replica.text(["a small picture", ""]))


@pytest.mark.parametrize("name", TAKING)
def test_adapters_off_is_the_base_to_the_bit_and_on_again_is_on(name: str, tmp_path: Path) -> None:
    found = found_of(name, tmp_path)
    part = "unet" if "unet" in found.parts else "transformer"
    modules = ["attention.to_q", "attention.to_v"] if name == "z_image" else None
    file = saved(layers(found, part, modules=modules), tmp_path / "lora.safetensors")
    check_adapter(file, name)
    base, replica = predicted(load(found)), load(found, Adapter(file, 1.0))
    tuned = predicted(replica)
    assert not torch.equal(tuned, base)
    with replica.without_adapters():
        assert torch.equal(predicted(replica), base)
    assert torch.equal(predicted(replica), tuned)
    assert not any(parameter.requires_grad for parameter in replica.parameters().values())


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> PipelineFolder:
    return found_of("stable_diffusion", tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def lora(sd: PipelineFolder) -> dict[str, Tensor]:
    text = layers(sd, "text_encoder", modules=["q_proj", "k_proj", "v_proj", "out_proj"])
    return layers(sd, "unet") | text


def test_every_layout_of_one_lora_predicts_the_same(sd: PipelineFolder, lora: dict[str, Tensor], tmp_path: Path) -> None:
    peft_file = saved(lora, tmp_path / "peft.safetensors")
    replica = load(sd, Adapter(peft_file, 1.0))
    expected = predicted(replica)
    assert not replica.told_alike()
    layer = {"unet": "lora", "text_encoder": "lora_linear_layer"}
    old = {
        name.replace(".lora_A.", f".{layer[name.split('.')[0]]}.down.").replace(
            ".lora_B.", f".{layer[name.split('.')[0]]}.up."
        ): one
        for name, one in lora.items()
    }
    # Trainers count no text encoder where there is one, and name its modules as transformers did before its version 5.
    kohya = {
        name.replace("lora_te1_", "lora_te_text_model_"): one for name, one in convert_state_dict_to_kohya(dict(lora)).items()
    }
    for layout, tensors in {"diffusers": old, "kohya": kohya}.items():
        file = saved(tensors, tmp_path / f"{layout}.safetensors")
        check_adapter(file, "stable_diffusion")
        assert torch.allclose(predicted(load(sd, Adapter(file, 1.0))), expected, atol=1e-5), layout


def test_weights_scale_what_adapters_add_and_several_add_up(
    sd: PipelineFolder, lora: dict[str, Tensor], tmp_path: Path
) -> None:
    file = saved(lora, tmp_path / "one.safetensors")
    half = {name: tensor / 2 if "lora_B" in name else tensor for name, tensor in lora.items()}
    halved = saved(half, tmp_path / "half.safetensors")
    whole = predicted(load(sd, Adapter(file, 1.0)))
    assert torch.allclose(predicted(load(sd, Adapter(halved, 2.0))), whole, atol=1e-5)
    assert torch.allclose(predicted(load(sd, Adapter(halved, 1.0), Adapter(file, 0.5))), whole, atol=1e-5)


def without(part: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda lora: {name: tensor for name, tensor in lora.items() if not name.startswith(part)}


def renamed(lora: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    stems = sorted({name.rsplit(".lora_", 1)[0] for name in lora})[:count]
    return {
        f"unet.foreign.{name.removeprefix('unet.')}" if name.rsplit(".lora_", 1)[0] in stems else name: tensor
        for name, tensor in lora.items()
    }


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lora: renamed(without("text_encoder")(lora), 1000), "matches no module|cannot be put onto|does not fit"),
        (lambda lora: renamed(without("text_encoder")(lora), 2), "matches only|cannot be put onto|does not fit"),
        (lambda lora: {n: torch.zeros_like(t) if "lora_B" in n else t for n, t in lora.items()}, "changes nothing"),
        (lambda lora: {n: t[:, :5] if "attn2.to_k.lora_A" in n else t for n, t in lora.items()}, "cannot be put onto"),
    ],
)
def test_an_adapter_that_matches_none_or_some_modules_or_changes_nothing_is_refused(
    sd: PipelineFolder, lora: dict[str, Tensor], tmp_path: Path, damage: Any, message: str
) -> None:
    file = saved(damage(lora), tmp_path / "damaged.safetensors")
    with pytest.raises(ConfigError, match=message) as refused:
        load(sd, Adapter(file, 1.0))
    assert "damaged.safetensors" in str(refused.value)


@pytest.mark.parametrize(
    ("names", "metadata", "message"),
    [
        (["unet.to_q.lora_A.weight", "unet.to_q.dora_scale"], {}, "dora_scale: it is DoRA"),
        (["unet.to_q.lora_A.weight", "unet.to_q.lora_magnitude_vector"], {}, "it is DoRA"),
        (["lora_unet_mid.hada_w1_a"], {}, "it is LoHa"),
        (["lora_unet_mid.diff"], {}, "differences of whole weights"),
        (["model.diffusion_model.input_blocks.0.0.weight"], {}, "a checkpoint: give it as replica.model"),
        (["unet.conv_in.weight"], {}, "no adapter's; expected LoRA or LoKr"),
        (["unet.q.lora_A.weight"], {"ss_base_model_version": "sdxl_base_v1-0"}, "says 'sdxl_base_v1-0', and .* another base"),
        (["unet.q.lora_A.weight"], {"modelspec.architecture": "flux-1-dev/lora"}, "another base"),
    ],
)
def test_what_is_no_adapter_or_would_be_dropped_is_refused_by_its_header(
    tmp_path: Path, names: list[str], metadata: dict[str, str], message: str
) -> None:
    file = saved({name: torch.ones(2, 2) for name in names}, tmp_path / "x.safetensors", **metadata)
    with pytest.raises(ConfigError, match=message):
        check_adapter(file, "stable_diffusion")


def test_a_file_is_found_in_a_folder_and_pickles_are_refused(tmp_path: Path) -> None:
    file = saved({"unet.q.lora_A.weight": torch.ones(2, 2)}, tmp_path / "x.safetensors", ss_base_model_version="sd_v1")
    check_adapter(file, "stable_diffusion")
    assert find_adapter(str(tmp_path), None) == find_adapter(str(file), None) == find_adapter(str(tmp_path), "x.safetensors")
    saved({"unet.q.lora_A.weight": torch.ones(2, 2)}, tmp_path / "y.safetensors")
    with pytest.raises(ConfigError, match="has 2 safetensors; say which by weight_name"):
        find_adapter(str(tmp_path), None)
    (tmp_path / "z.pt").write_bytes(b"")
    for name, message in (("z.pt", "pickled weights are never loaded"), ("none.safetensors", "no such file")):
        with pytest.raises(ConfigError, match=message):
            find_adapter(str(tmp_path / name), None)
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:20])
    with pytest.raises(ConfigError, match="not readable as safetensors"):
        check_adapter(tmp_path / "cut.safetensors", "sdxl")


def test_lokr_is_taken_where_diffusers_takes_it(tmp_path: Path) -> None:
    found = found_of("flux2_klein", tmp_path)
    file = saved(layers(found, "transformer", LoKrConfig), tmp_path / "lokr.safetensors")
    names = list(load_file(file))
    assert all(".lokr_" in name for name in names)
    check_adapter(file, "flux2_klein")
    assert not torch.equal(predicted(load(found, Adapter(file, 1.0))), predicted(load(found)))
