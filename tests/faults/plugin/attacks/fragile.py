"""An attack that is slow, breaks on chosen samples and runs out of memory on large batches."""

from __future__ import annotations

import time
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raymia.attacks.base import Access, Attack, Evaluations, Signal
from raymia.trial.trial import Trial


class Fragile(Attack):
    """The sum of the digits of the sample's key."""

    name: ClassVar = "fragile"
    access: ClassVar = Access.CONTROL
    reference: ClassVar = "a test"

    sleep_s: float = Field(0.0, description="How long each batch takes.")
    raise_on: str = Field("", description="Key of a sample that cannot be scored.")
    largest_batch: int = Field(10**6, description="Larger batches run out of memory.")

    def signals(self) -> list[Signal]:
        return [Signal("fragile", primary=True)]

    def cost(self) -> Evaluations:
        return Evaluations()

    def score(self, trial: Trial) -> dict[str, Tensor]:
        if len(trial.keys) > self.largest_batch:
            raise torch.OutOfMemoryError(f"tried a batch of {len(trial.keys)}")
        if self.raise_on in trial.keys:
            raise ValueError(f"cannot score {self.raise_on}")
        time.sleep(self.sleep_s)
        return {"fragile": torch.tensor([float(sum(map(int, filter(str.isdigit, key)))) for key in trial.keys])}
