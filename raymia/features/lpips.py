"""LPIPS: the learned perceptual distance, with its published weights or an error."""

from __future__ import annotations

import warnings
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.error import URLError

import lpips
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import AlexNet_Weights, SqueezeNet1_1_Weights, VGG16_Weights

from raymia.digests import file_digest
from raymia.errors import ConfigError

Net = Literal["alex", "vgg", "squeeze"]
"""Architecture of the trunk."""
TORCHVISION = "torchvision"
"""Stands for torchvision's own weights where a file may be named."""
_PUBLISHED = {"alex": AlexNet_Weights, "vgg": VGG16_Weights, "squeeze": SqueezeNet1_1_Weights}


class Lpips:
    """LPIPS version 0.1 in float32 on one device: a trunk trained on ImageNet, and the linear heads of the `lpips` package.

    Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, arXiv 1801.03924.
    """

    def __init__(self, net: Net, trunk: str, device: torch.device) -> None:
        """Load the trunk and the heads.

        Args:
            net: architecture of the trunk.
            trunk: ``torchvision``, which fetches its ImageNet weights, or a safetensors file with the same names.
            device: where it computes.

        Raises:
            ConfigError: the weights cannot be had or do not fit; random ones are never used instead.
        """
        weights = load_trunk(net, trunk)
        # The package would fetch the trunk by itself and unpickle it; made with random weights, it is filled from here.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="torchvision.models._utils")  # the package speaks to it in an old way
            model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        for name, parameter in model.net.named_parameters():
            _, place = name.split(".", 1)  # slice2.3.weight is features.3.weight
            source = weights.get(f"features.{place}")
            if source is None or source.shape != parameter.shape:
                raise ConfigError(
                    f"lpips.trunk {trunk!r}: features.{place} is missing or has another shape than {net} has; "
                    f"expected the state dict of torchvision's {_PUBLISHED[net].__name__.removesuffix('_Weights')}"
                )
            parameter.data.copy_(source)
        self._model = model.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def distance(self, one: Float[Tensor, "batch 3 H W"], other: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, " batch"]:
        """Distance of each image to its counterpart, all in [-1, 1]; 0 for identical ones."""
        distance: Tensor = self._model(one.float(), other.float())
        return distance.flatten()


def load_trunk(net: Net, trunk: str) -> dict[str, Tensor]:
    """Weights of the trunk by torchvision's names; torchvision's are fetched once and kept in torch's cache.

    Args:
        net: architecture of the trunk.
        trunk: ``torchvision``, or a safetensors file.

    Raises:
        ConfigError: the file is missing or no safetensors, or torchvision's host cannot be reached.
    """
    if trunk == TORCHVISION:
        try:
            published = _PUBLISHED[net].DEFAULT.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except (URLError, OSError, RuntimeError) as error:
            raise ConfigError(
                f"lpips.trunk: torchvision cannot fetch its {net} weights ({error}); set lpips.trunk to a safetensors file "
                "of them, or leave `lpips` out of the attacks' metrics"
            ) from error
        return {name: tensor for name, tensor in published.items() if name.startswith("features.")}
    if not Path(trunk).is_file():
        raise ConfigError(f"lpips.trunk {trunk!r}: no such file; expected a safetensors file, or `{TORCHVISION}`")
    try:
        return load_file(trunk)
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"lpips.trunk {trunk!r}: not a readable safetensors file ({error})") from error


def fingerprint(net: Net, trunk: str) -> str:
    """What identifies an LPIPS: sha256 of the file of its trunk or the name of torchvision's, and the package with the heads.

    Args:
        net: architecture of the trunk.
        trunk: ``torchvision``, or a safetensors file.

    Raises:
        ConfigError: the file cannot be read.
    """
    # The names of torchvision's files hold the beginning of their sha256, which is checked.
    weights = PurePosixPath(_PUBLISHED[net].DEFAULT.url).name if trunk == TORCHVISION else file_digest(Path(trunk))
    return f"{net} {weights}, heads of lpips {version('lpips')}"
