"""SSCD: a descriptor by which a copy of an image is found, whatever was done to it, from safetensors only.

Source: Pizzi et al., A Self-Supervised Descriptor for Image Copy Detection, arXiv 2202.10261.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet50

from raymia.errors import ConfigError, first_line

WIDTH = 512
"""Of a descriptor."""
SHORT_SIDE_PX = 288
"""That images are resized to, as published for images that keep their shape."""
POWER = 3.0
"""Of the generalised mean."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet."""
PUBLISHED_PREFIX = "backbone."
"""Before the names of torchvision's ResNet-50 in the published file of weights."""
EXPECTED = (
    f"expected the state dict of torchvision's ResNet-50 with {WIDTH} outputs, which SSCD's weights are; see docs/extraction.md"
)


class GeneralisedMean(nn.Module):
    """Mean of the cubes over all places, and the cube root of that."""

    def forward(self, maps: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels 1 1"]:
        """Of maps, whose elements count as at least 1e-6."""
        means: Tensor = maps.clamp(min=1e-6).pow(POWER).mean((2, 3), keepdim=True).pow(1.0 / POWER)
        return means


class Sscd:
    """The published descriptor, in float32 on one device."""

    def __init__(self, file: str, device: torch.device) -> None:
        """Load the weights.

        Args:
            file: safetensors with the names of torchvision's ResNet-50, as `sscd_tensors` gives them.
            device: where it computes.

        Raises:
            ConfigError: there is no such file, or it holds other tensors; random weights are never used instead.
        """
        check_sscd(file)
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ConfigError(f"copies {file!r}: the tensor {name} is not finite; the weights are damaged")
        model = _empty()
        model.to_empty(device=device)
        model.load_state_dict(
            {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
        )
        self._model = model.eval().requires_grad_(False)
        self._mean = torch.tensor(MEAN, device=device)[:, None, None]
        self._std = torch.tensor(STD, device=device)[:, None, None]

    @torch.no_grad()
    def embed_images(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch width"]:
        """Unit descriptors of images in [-1, 1], whose short side is resized (bilinear, antialiased) to 288 px."""
        x = (resized(images, "bilinear", SHORT_SIDE_PX) - self._mean) / self._std
        return functional.normalize(self._model(x), dim=1)


def resized(images: Float[Tensor, "batch 3 H W"], mode: str, short_px: int) -> Float[Tensor, "batch 3 h w"]:
    """Images in [-1, 1] as images in [0, 1] whose short side has so many pixels and whose shape is kept."""
    x = images.float() / 2 + 0.5
    height, width = x.shape[-2:]
    short = min(height, width)
    size = (int(short_px * height / short), int(short_px * width / short))
    if (height, width) == size:
        return x
    return functional.interpolate(x, size=size, mode=mode, antialias=True, align_corners=False).clamp(0, 1)


def check_sscd(file: str) -> None:
    """Refuse a file that does not hold SSCD's tensors, all of them and no others; its header alone is read.

    Args:
        file: see `Sscd`.

    Raises:
        ConfigError: names the file and the tensor.
    """
    if not Path(file).is_file():
        raise ConfigError(f"copies {file!r}: no such file; give sscd:FILE with a safetensors file of SSCD's weights")
    try:
        with safe_open(file, "pt") as tensors:
            found = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118 - no dictionary
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"copies {file!r}: not readable as safetensors ({first_line(error)}); {EXPECTED}") from error
    _require_layout(found, f"copies {file!r}")


def sscd_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published weights under torchvision's own names, to be saved as safetensors.

    Args:
        state: the state dict of the published file ``sscd_disc_mixup.torchvision.pt`` or a sibling of it.

    Raises:
        ConfigError: a tensor is missing, is one too many or has another shape; names it.
    """
    tensors = {name.removeprefix(PUBLISHED_PREFIX): tensor for name, tensor in state.items()}
    if len(tensors) != len(state):
        raise ConfigError(f"weights of SSCD: names that differ in {PUBLISHED_PREFIX!r} alone; {EXPECTED}")
    _require_layout({name: tuple(tensor.shape) for name, tensor in tensors.items()}, "weights of SSCD")
    return {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}


def _require_layout(found: Mapping[str, tuple[int, ...]], what: str) -> None:
    expected = _layout()
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ConfigError(
                f"{what}: the tensor {name} is {found.get(name, 'missing')}, and SSCD has "
                f"{expected.get(name, 'none of that name')}; {EXPECTED}"
            )


@cache
def _layout() -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in _empty().state_dict().items()}


def _empty() -> nn.Module:
    """The network without memory."""
    with torch.device("meta"):
        model: nn.Module = resnet50(num_classes=WIDTH)
    model.avgpool = GeneralisedMean()
    return model
