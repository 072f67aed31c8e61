"""LPIPS with its real weights, or an error."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import AlexNet_Weights

from raymia.errors import ConfigError
from raymia.features.lpips import Lpips, load_trunk
from raymia.testbed.alexnet import PLACES, build_trunk

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AlexNet's ImageNet weights, from a package of the index."""
    path = tmp_path_factory.mktemp("lpips") / "alexnet.safetensors"
    build_trunk(path)
    return path


def test_lpips_is_zero_for_the_same_image_and_grows_with_noise(trunk: Path) -> None:
    model = Lpips("alex", str(trunk), CPU)
    generator = torch.Generator().manual_seed(0)
    images = torch.nn.functional.interpolate(torch.rand(4, 3, 8, 8, generator=generator), size=64, mode="bicubic") * 2 - 1
    noise = torch.randn(images.shape, generator=generator)
    distances = [model.distance(images, images + scale * noise) for scale in (0.0, 0.1, 0.2, 0.4, 0.8)]
    assert distances[0].abs().max() < 1e-7
    for before, after in pairwise(distances):
        assert (after > before).all()


def test_the_trunk_is_the_one_that_torchvision_publishes(trunk: Path) -> None:
    weights = load_file(trunk)
    assert set(weights) == {f"features.{place}.{kind}" for place in PLACES for kind in ("weight", "bias")}
    # As torchvision's alexnet(weights=IMAGENET1K_V1) prints its first filter.
    published = torch.tensor([1.1864e-01, 9.4069e-02, 9.5435e-02])
    assert torch.allclose(weights["features.0.weight"][0, 0, 0, :3], published, atol=1e-5)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, trunk: Path) -> None:
    weights = load_file(trunk)
    del weights["features.6.bias"]
    save_file(weights, tmp_path / "short.safetensors")
    with pytest.raises(ConfigError, match=r"features\.6\.bias is missing"):
        Lpips("alex", str(tmp_path / "short.safetensors"), CPU)
    with pytest.raises(ConfigError, match="expected the state dict of torchvision's VGG16"):
        Lpips("vgg", str(trunk), CPU)


def test_a_trunk_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "pickled.pth")
    with pytest.raises(ConfigError, match="not a readable safetensors file"):
        load_trunk("alex", str(tmp_path / "pickled.pth"))


def test_weights_that_cannot_be_fetched_are_an_error_and_never_random(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(AlexNet_Weights.DEFAULT.__class__, "get_state_dict", unreachable)
    with pytest.raises(ConfigError, match=r"cannot fetch its alex weights .* leave .lpips. out"):
        Lpips("alex", "torchvision", CPU)
