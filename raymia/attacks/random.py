"""A control that knows nothing: seeded uniform noise."""

from __future__ import annotations

import hashlib
from typing import ClassVar

import torch
from torch import Tensor

from raymia.attacks.base import Access, Attack, Evaluations, Signal
from raymia.replica.device import onto
from raymia.trial.trial import Trial


class Random(Attack):
    """Uniform noise in [0, 1), a function of seed, key and pixels. It must sit inside the noise floor.

    The pixels take part because data sets often give the same keys to both splits; the key alone would then give
    members and non-members the very same scores.
    """

    name: ClassVar = "random"
    access: ClassVar = Access.CONTROL
    reference: ClassVar = "control: uniform noise"

    def signals(self) -> list[Signal]:
        return [Signal("random", primary=True)]

    def cost(self) -> Evaluations:
        return Evaluations()

    def score(self, trial: Trial) -> dict[str, Tensor]:
        # Of the 8-bit levels: a GPU's floats of the same image may differ from a CPU's by a rounding.
        levels = ((trial.images + 1.0) * 127.5).round().to(torch.uint8).cpu().numpy()
        digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in levels]
        keys = [f"{key} {digest}" for key, digest in zip(trial.keys, digests, strict=True)]
        seeds = [trial.sample_seed(key, 0, purpose="random") for key in keys]
        draws = [torch.rand((), generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
        return {"random": onto(trial.images.device, torch.stack(draws))}
