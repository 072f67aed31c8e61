"""Restraint: where a model knows an image, it sees less noise in it."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from raymia.attacks.base import Access, Attack, Evaluations, Signal
from raymia.replica.schedule import Schedule
from raymia.trial.parameters import Timestep
from raymia.trial.trial import Trial


class Restraint(Attack):
    """Minus the mean absolute noise that the model predicts at one timestep."""

    name: ClassVar = "outside_restraint"
    access: ClassVar = Access.GREY
    reference: ClassVar = "a test"

    timestep: Timestep = Field(100, description="Timestep at which the latents are noised.")

    def check(self, schedule: Schedule) -> None:
        schedule.check(self.timestep)

    def signals(self) -> list[Signal]:
        return [Signal("outside_restraint", primary=True)]

    def cost(self) -> Evaluations:
        return Evaluations(forwards=1, encodes=1)

    def score(self, trial: Trial) -> dict[str, Tensor]:
        return {"outside_restraint": -trial.predicted_noise(self.timestep, 0).abs().flatten(1).mean(1)}
