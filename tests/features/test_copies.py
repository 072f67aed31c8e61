"""Copy detectors compute what is published, and files that are none of theirs are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision import transforms
from torchvision.models import resnet50
from transformers import Dinov2Config, Dinov2Model

from raymia.errors import ConfigError
from raymia.features import copies
from raymia.features.copies import check_copies, load_copies
from raymia.features.dinov2 import Dinov2, check_dinov2
from raymia.features.sscd import Sscd, check_sscd, sscd_tensors
from raymia.testbed import CLIP

CPU = torch.device("cpu")
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """Random weights under the names of the published file."""
    torch.manual_seed(0)
    return {f"backbone.{name}": tensor for name, tensor in resnet50(num_classes=512).state_dict().items()}


@pytest.fixture(scope="module")
def sscd(published: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sscd") / "sscd.safetensors"
    save_file(sscd_tensors(published), file)
    return file


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((96, 80), Image.Resampling.BICUBIC)


def tensor_of(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1.0


def test_sscd_is_the_published_pipeline_of_torchvision_with_a_generalised_mean(
    sscd: Path, published: dict[str, Tensor], picture: Image.Image
) -> None:
    prepare = transforms.Compose(
        [transforms.Resize(288), transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    )
    network = resnet50(num_classes=512)
    network.load_state_dict({name.removeprefix("backbone."): tensor for name, tensor in published.items()})
    trunk = nn.Sequential(*list(network.children())[:-2]).eval()
    with torch.no_grad():
        maps = trunk(prepare(picture)[None])[0].double().clamp(min=1e-6).numpy()
        pooled = np.cbrt((maps**3).reshape(2048, -1).mean(1))
        raw = network.fc.weight.double().numpy() @ pooled + network.fc.bias.double().numpy()
    found = Sscd(str(sscd), CPU).embed_images(tensor_of(picture))[0].double().numpy()
    assert found == pytest.approx(raw / np.linalg.norm(raw), abs=2e-3)  # pixels of torchvision's resizing are rounded
    assert float(np.linalg.norm(found)) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: one.pop("backbone.layer4.2.bn3.bias"), r"layer4\.2\.bn3\.bias is missing, and SSCD has \(2048,\)"),
        (lambda one: one.update(extra=torch.zeros(1)), r"the tensor extra is \(1,\), and SSCD has none of that name"),
        (lambda one: one.update({"backbone.fc.weight": torch.zeros(1000, 2048)}), r"fc\.weight is \(1000, 2048\)"),
    ],
)
def test_weights_that_are_not_those_of_sscd_are_refused_by_the_tensor(
    published: dict[str, Tensor], tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    state = dict(published)
    change(state)
    with pytest.raises(ConfigError, match=message):
        sscd_tensors(state)
    save_file({name.removeprefix("backbone."): tensor.clone() for name, tensor in state.items()}, tmp_path / "f.safetensors")
    with pytest.raises(ConfigError, match=message):
        check_sscd(str(tmp_path / "f.safetensors"))


def test_no_file_a_pickle_and_weights_that_are_not_finite_are_refused(sscd: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        check_sscd(str(tmp_path / "gone.safetensors"))
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "sscd.torchvision.pt")
    with pytest.raises(ConfigError, match=r"not readable as safetensors .* docs/extraction\.md"):
        check_sscd(str(tmp_path / "sscd.torchvision.pt"))
    save_file({**load_file(sscd), "fc.bias": torch.full((512,), float("nan"))}, tmp_path / "nan.safetensors")
    with pytest.raises(ConfigError, match=r"fc\.bias is not finite"):
        Sscd(str(tmp_path / "nan.safetensors"), CPU)


def test_dinov2_is_the_class_token_of_transformers_and_a_folder_that_is_not_whole_is_refused(
    tmp_path: Path, picture: Image.Image
) -> None:
    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(**TINY)).eval()
    model.save_pretrained(tmp_path)
    prepare = transforms.Compose(
        [
            transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    with torch.no_grad():
        token = model(prepare(picture)[None]).last_hidden_state[0, 0]
    found = Dinov2(str(tmp_path), CPU).embed_images(tensor_of(picture))[0]
    assert torch.allclose(found, token / token.norm(), atol=5e-3)
    before = copies.fingerprint(f"dinov2:{tmp_path}", None)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("layernorm.bias")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert copies.fingerprint(f"dinov2:{tmp_path}", None) != before
    with pytest.raises(ConfigError, match=r"model\.safetensors: the tensor layernorm\.bias is missing"):
        check_dinov2(str(tmp_path))
    for other, word in (
        ({"extra": torch.zeros(1)}, "extra is none"),
        ({"layernorm.bias": torch.zeros(3)}, "bias is of another shape"),
    ):
        save_file({**tensors, "layernorm.bias": torch.zeros(16), **other}, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(ConfigError, match=word):
            Dinov2(str(tmp_path), CPU)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ConfigError, match="model_type is 'vit'; expected 'dinov2'"):
        check_dinov2(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "dinov2", "hidden_size": 99999999}')
    with pytest.raises(ConfigError, match="hidden_size is 99999999; expected a number from 1 to 4096"):
        check_dinov2(str(tmp_path))


def test_a_detector_is_named_by_kind_and_place_and_identified_by_its_file(sscd: Path) -> None:
    for wrong in ("", "sscd", "sscd:", "clip:x", "lpips:x", str(sscd)):
        with pytest.raises(ConfigError, match="expected sscd:FILE, dinov2:FOLDER-OR-ID, or clip"):
            check_copies(wrong)
    check_copies(f"sscd:{sscd}")
    assert copies.fingerprint(f"sscd:{sscd}", None).startswith("sscd ")
    assert copies.fingerprint("clip", "abc") == "clip abc"
    assert load_copies("clip", str(CLIP), CPU).embed_images(torch.zeros(1, 3, 32, 32)).shape == (1, 64)
    with pytest.raises(ConfigError, match="the job has no `clip`"):
        load_copies("clip", None, CPU)
