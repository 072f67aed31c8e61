"""DiT: a transformer over latents that is told a class of ImageNet and no text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from raymia.errors import ConfigError
from raymia.replica.autoencoder import native_px
from raymia.replica.conditioning import Conditioning, UntellableError
from raymia.replica.configs import read_config
from raymia.replica.device import onto
from raymia.replica.documents import read_json
from raymia.replica.families import Ability, LoadOptions
from raymia.replica.own_pipeline import OneStep
from raymia.replica.parameter_groups import TRANSFORMER_GROUPS
from raymia.replica.parts import Parts
from raymia.replica.protocol import Replica
from raymia.replica.transformer import NoiseFamily, TransformerDiffusion, check_fields, check_kl, each

NO_CLASS = 1000
"""What the pipeline tells the model where it guides: the class behind those of ImageNet, under which it was trained on all."""
NO_TEXT = "the model is told a class, which has no words or hidden states"


class DiT(NoiseFamily):
    """Pipelines of a DiTTransformer2DModel. A sample's caption is its class: a number, or a label of ``id2label``."""

    name: ClassVar = "dit"
    title: ClassVar = "DiT"
    pipelines: ClassVar = ("DiTPipeline",)
    parts: ClassVar = {"transformer": "diffusers.DiTTransformer2DModel", "vae": "diffusers.AutoencoderKL"}
    fields: ClassVar = ("id2label",)
    resolution_px: ClassVar = 256
    # Time and class are embedded within each block, where they modulate it.
    groups: ClassVar = tuple(group for group in TRANSFORMER_GROUPS if group not in ("embedding.time", "embedding.condition"))
    refused: ClassVar = "other classes than ImageNet's thousand"

    def check(self, folder: Path) -> None:
        transformer = read_config(folder, "transformer", self.parts["transformer"])
        channels = transformer["in_channels"]
        vae = check_kl(folder, self.parts["vae"], channels)
        check_fields(vae, folder / "vae", {"shift_factor": ((0, None), "a shift, which diffusers' pipeline of DiT ignores,")})
        served = {
            "out_channels": ((channels, None, 2 * channels), "an output of other channels"),
            "patch_size": ((2,), "another packing"),
            "num_embeds_ada_norm": ((NO_CLASS,), "another unconditional class than the pipeline's"),
        }
        check_fields(transformer, folder / "transformer", served)
        self.labels(folder)
        self.schedule(folder)

    def native_px(self, folder: Path) -> int:
        return native_px(folder, "transformer", self.parts)

    def lacks(self, folder: Path) -> Mapping[Ability, str]:
        return {"words": f"{NO_TEXT}; set words: []", "states": f"{NO_TEXT}; leave text_shift out"}

    def labels(self, folder: Path) -> dict[str, frozenset[int]]:
        """The classes that each label of ``model_index.json`` stands for.

        Raises:
            ConfigError: ``id2label`` does not name classes.
        """
        index = folder / "model_index.json"
        named = read_json(index).get("id2label") or {}
        found: dict[str, set[int]] = defaultdict(set)
        for number, label in named.items() if isinstance(named, dict) else [("", named)]:
            if not (str(number).isdecimal() and int(number) < NO_CLASS and isinstance(label, str)):
                raise ConfigError(f"{index}: id2label has {number!r}: {label!r}; expected labels by numbers below {NO_CLASS}")
            for one in label.split(","):
                found[one.strip()].add(int(number))
        return {label: frozenset(numbers) for label, numbers in found.items()}

    def own_step(self, folder: Path, options: LoadOptions, height: int, width: int) -> OneStep:
        # The pipeline takes no size, and moves the two rows that it guides by alike.
        return OneStep({"class_labels": [1], "guidance_scale": 2.0}, ("", "1"), 2.0, lambda rows, *_: rows[:1])

    def load(self, parts: Parts, options: LoadOptions) -> Replica:
        return _Replica(self, parts, options)


class _Replica(TransformerDiffusion):
    def __init__(self, family: DiT, parts: Parts, options: LoadOptions) -> None:
        self._labels = family.labels(parts.folder)
        super().__init__(family, parts, options)

    def _load_text(self, parts: Parts) -> None:
        """There is none."""

    def _encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """The class that each caption names; of the empty one, the class that stands for all.

        Raises:
            UntellableError: a caption names no class, or several.
        """
        return Conditioning(labels=onto(self.device, torch.tensor([self._class(prompt) for prompt in prompts])))

    def _class(self, prompt: str) -> int:
        label = prompt.strip()
        if not label:
            return NO_CLASS
        if label.isdecimal() and int(label) < NO_CLASS:
            return int(label)
        classes = self._labels.get(label, frozenset())
        if len(classes) != 1:
            which = f"stands for the classes {sorted(classes)}" if classes else "is no class"
            known = "a label of id2label or a number" if self._labels else "a number"
            raise UntellableError("no_class", f"the caption {label[:80]!r} {which}; expected {known} below {NO_CLASS}")
        return next(iter(classes))

    def _output(self, denoiser: Callable[..., Any], latents: Tensor, times: Tensor, told: Conditioning) -> Tensor:
        output: Tensor = denoiser(
            latents,
            timestep=each(times, len(latents)).to(latents.device),
            class_labels=told.labels,
            return_dict=False,
        )[0]
        return output[:, : latents.shape[1]]
