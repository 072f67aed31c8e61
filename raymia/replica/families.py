"""Kinds of models: how each is told from the others, checked, loaded, conditioned and called; one file each in this folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from raymia.errors import ConfigError
from raymia.registry import Registry
from raymia.replica.protocol import Replica
from raymia.replica.schedule import Naming, Schedule


@dataclass(frozen=True)
class LoadOptions:
    """How a model is run.

    Attributes:
        dtype: of denoiser and text encoders: ``float32``, ``bfloat16`` or ``float16``. The autoencoder always computes in
            float32: its activations overflow in half precision.
        device: ``cpu``, ``cuda``, or ``auto`` for CUDA where there is one.
        resolution_px: side of the images.
        denoiser_batch: images in one call of the denoiser; by default as many as keep the device busy and fit its memory.
        compiled: compile the denoiser, for calls of two sizes: what is left is padded, not compiled anew.
        also_float32: evaluations `in_float32` will be asked for, so that memory must hold that denoiser, too.
        naming: what a timestep means.
    """

    dtype: str = "float32"
    device: str = "auto"
    resolution_px: int = 512
    denoiser_batch: int | None = None
    compiled: bool = False
    also_float32: bool = False
    naming: Naming = "levels"


class Family(ABC):
    """One kind of model in diffusers' pipeline layout.

    To add one, put a subclass into a file of this folder that has the family's name; importing the file must not load
    diffusers' models. See docs/add_a_family.md.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    """What people call the models."""
    weights: ClassVar[Mapping[str, str]]
    """Folders of the parts that have weights, each with the stem of its safetensors files."""
    files: ClassVar[tuple[str, ...]]
    """Further files that the model is loaded from, as patterns; with the configs and weights of the parts they identify it."""
    resolution_px: ClassVar[int]
    """That the models were trained at."""

    @abstractmethod
    def matches(self, model_index: Mapping[str, Any]) -> bool:
        """Whether a pipeline folder is of this family, by the contents of its ``model_index.json``."""

    @abstractmethod
    def check(self, folder: Path) -> None:
        """Refuse a folder that cannot be attacked, as far as its configs tell.

        Raises:
            ConfigError: names the file or field, what was expected and what to do.
        """

    @abstractmethod
    def schedule(self, folder: Path, naming: Naming = "levels") -> Schedule:
        """The model's own noise schedule.

        Raises:
            ConfigError: its config describes none that is supported.
        """

    @abstractmethod
    def latent_shape(self, folder: Path, resolution_px: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a square image."""

    @abstractmethod
    def load(self, folder: Path, variant: str | None, options: LoadOptions) -> Replica:
        """Load a folder that was checked.

        Args:
            folder: in diffusers' layout.
            variant: of the weight files; none or ``fp16``.
            options: how it is run.

        Raises:
            ConfigError: weights that do not fit their config, or a resolution the model cannot take.
        """

    @abstractmethod
    def parameter_group(self, name: str) -> str | None:
        """The part of the denoiser and the kind of layer that a parameter belongs to; none where others have no such part."""


FAMILIES: Registry[Family] = Registry(
    "family",
    "raymia.families",
    Family,  # type: ignore[type-abstract]
    "raymia.replica",
    beside=(
        "autoencoder",
        "conditioning",
        "device",
        "families",
        "folder",
        "latent_diffusion",
        "noise",
        "parameter_groups",
        "protocol",
        "schedule",
        "unet",
        "weights",
    ),
)
"""Every family; the other files of this folder are what families share."""


def of(model_index: Mapping[str, Any], source: object) -> Family:
    """The family of a pipeline folder.

    Args:
        model_index: contents of its ``model_index.json``.
        source: named in errors.

    Raises:
        ConfigError: it is of no family that is supported, or of two.
    """
    matching = [family for family in (kind() for kind in FAMILIES.all().values()) if family.matches(model_index)]
    if len(matching) == 1:
        return matching[0]
    kind = model_index.get("_class_name")
    if not matching:
        titles = ", ".join(found.title for found in FAMILIES.all().values())
        raise ConfigError(f"{source}: a {kind} is not supported; expected a pipeline of {titles}")
    raise ConfigError(f"{source}: a {kind} matches the families {' and '.join(f.name for f in matching)}; remove one of them")
