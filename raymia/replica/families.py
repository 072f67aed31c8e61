"""Kinds of models: how each is told from the others, checked, loaded, conditioned and called; one file each in this folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from raymia.data.shapes import Shapes
from raymia.errors import ConfigError
from raymia.registry import Registry
from raymia.replica.adapters import Adapter
from raymia.replica.documents import present
from raymia.replica.own_pipeline import OneStep, guided_step
from raymia.replica.parameter_groups import UNET_GROUPS
from raymia.replica.parts import Parts
from raymia.replica.protocol import Replica
from raymia.replica.quantised import Weights
from raymia.replica.schedule import Naming, Schedule
from raymia.replica.staged_text import StagedText

Ability = Literal["condition", "words", "states", "unconditional", "autoencoder"]
"""What a model may be told: a ``condition`` for each image; one made of ``words``, of which some can be left out; one that
reaches the denoiser as hidden ``states``; and none, as an ``unconditional`` model that it was trained to be, too. And what it
may have: an ``autoencoder``."""


TextPlace = Literal["resident", "offload", "stage"]
"""Where text encoders are while nothing is encoded; in another process, for a stage of its own, with the last."""


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
        guidance: scale that a model distilled under guidance is told; none for the family's own value.
        own_sizes: tell the model of the size of each image's file, where it can be told.
        text: where text encoders are between two calls: ``resident`` on the device, or ``offload`` in the machine's memory; or
            ``stage``, for a replica without any, which is told what is kept in `staged`.
        staged: what another process kept, with ``stage``.
        adapters: that are put onto denoiser and text encoders, in order.
        weights: what the denoiser's weights are kept in, whatever it computes in.
        gpus: that the denoiser is spread over.
        text_alone: load text encoders and nothing else, for that other process; attributes of the rest are then missing.
    """

    dtype: str = "float32"
    device: str = "auto"
    resolution_px: int = 512
    denoiser_batch: int | None = None
    compiled: bool = False
    also_float32: bool = False
    naming: Naming = "levels"
    guidance: float | None = None
    own_sizes: bool = False
    text: TextPlace = "resident"
    staged: StagedText | None = None
    adapters: tuple[Adapter, ...] = ()
    weights: Weights = "as_saved"
    gpus: int = 1
    text_alone: bool = False


class Family(ABC):
    """One kind of model in diffusers' pipeline layout.

    To add one, put a subclass into a file of this folder that has the family's name; importing the file must not load
    diffusers' models. See docs/add_a_family.md.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    """What people call the models."""
    pipelines: ClassVar[tuple[str, ...]] = ()
    """What `model_index.json` calls such pipelines. The first is diffusers' own pipeline from text to image, where it has one:
    a replica is held against it when it loads."""
    parts: ClassVar[Mapping[str, str]]
    """Class of each part, as ``library.Class``, by the part's name and folder, tokenizers among them. With the scheduler they
    are all that the model is loaded from, and what identifies it."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Those of `parts` that a pipeline may be saved without."""
    fields: ClassVar[tuple[str, ...]] = ()
    """Further fields of `model_index.json` that the family reads."""
    autoencoder: ClassVar[str | None] = "vae"
    """The part that makes latents of images; none where the pixels are the latents."""
    resolution_px: ClassVar[int]
    """That the models were trained at."""
    levels: ClassVar[str]
    """What a noise level means to the models, and what they put out at one, in a few words."""
    grain: ClassVar[int] = 1
    """What the latents' sides are a multiple of."""
    groups: ClassVar[tuple[str, ...]] = UNET_GROUPS
    """What `parameter_group` puts the denoiser's parameters into."""
    refused: ClassVar[str] = ""
    """Models of the same name or shape that `check` refuses, in a few words."""

    def parts_in(self, model_index: Mapping[str, Any]) -> dict[str, str]:
        """The parts of a pipeline, by the contents of its ``model_index.json``: `parts`, less optional ones that it lacks."""
        return {part: path for part, path in self.parts.items() if part not in self.optional or present(model_index, part)}

    def matches(self, model_index: Mapping[str, Any]) -> bool:
        """Whether a pipeline folder is of this family, by the contents of its ``model_index.json``."""
        return model_index.get("_class_name") in self.pipelines

    @abstractmethod
    def check(self, folder: Path) -> None:
        """Refuse a folder whose parts do not fit together, or need what the family does not do, as far as its configs tell.

        Classes, unknown fields and tensors were looked at before, by what the family declares.

        Raises:
            ConfigError: names the file or field, what was expected and what to do.
        """

    def native_px(self, folder: Path) -> int:
        """Side of the images that a model was trained at, as far as its folder says."""
        return self.resolution_px

    def lacks(self, folder: Path) -> Mapping[Ability, str]:
        """What a model cannot be told or does not have, each with the reason; attacks that need it are refused.

        Args:
            folder: of the pipeline, whose configs may say so.
        """
        return {}

    def check_options(self, folder: Path, options: LoadOptions) -> None:
        """Refuse options that mean nothing to the model, before it is loaded.

        Raises:
            ConfigError: names the field of `replica`.
        """
        if options.guidance is not None:
            raise ConfigError(
                f"replica.guidance: {folder} was not distilled under guidance, and is told no scale; leave it out"
            )
        self.check_sizes(folder, options)

    def check_sizes(self, folder: Path, options: LoadOptions) -> None:
        """Refuse to tell a model of sizes that it is told nothing of.

        Raises:
            ConfigError: names the field of `replica`.
        """
        if options.own_sizes:
            raise ConfigError(f"replica.micro_conditions: {folder} is told no sizes; leave it out")

    def buckets(self, resolution_px: int) -> Shapes | None:
        """The shapes that the models were trained on, at a resolution; none where they are squares, or not known."""
        return None

    def own_step(self, folder: Path, options: LoadOptions, height: int, width: int) -> OneStep:
        """How diffusers' own pipeline is asked for one step, which the replica must predict, too.

        Args:
            folder: of the pipeline.
            options: how the replica is run.
            height, width: of an image in px, which the autoencoder can take.
        """
        return guided_step(height, width)

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
    def load(self, parts: Parts, options: LoadOptions) -> Replica:
        """Load a folder that was checked.

        Args:
            parts: of the pipeline, none of them loaded yet.
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
        "adapters",
        "aspects",
        "autoencoder",
        "backward",
        "conditioning",
        "configs",
        "device",
        "documents",
        "families",
        "fetching",
        "flux2",
        "folder",
        "gguf_file",
        "hub",
        "inversions",
        "latent_diffusion",
        "memory",
        "noise",
        "own_pipeline",
        "packing",
        "parameter_groups",
        "parts",
        "protocol",
        "quantised",
        "qwen_autoencoder",
        "schedule",
        "scheduler_config",
        "self_test",
        "single_file",
        "spread",
        "staged_text",
        "tensors",
        "text_encoders",
        "tokenizers",
        "transformer",
        "unconditional",
        "unet",
        "weight_files",
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
        known = [f"{found.title} ({', '.join(found.pipelines) or found.name})" for found in FAMILIES.all().values()]
        raise ConfigError(f"{source}: a {kind} is not supported; expected a pipeline of {', '.join(known)}")
    raise ConfigError(f"{source}: a {kind} matches the families {' and '.join(f.name for f in matching)}; remove one of them")
