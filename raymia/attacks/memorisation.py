"""Memorisation: a caption that a model has learnt by heart moves its first prediction far from the unconditional one."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raymia.attacks.base import Access, Attack, Evaluations, Signal
from raymia.replica.families import Ability
from raymia.replica.schedule import Schedule
from raymia.trial.parameters import Timestep
from raymia.trial.trial import CAPTION, EMPTY, Trial, norm


class Memorisation(Attack):
    """How far the caption moves what the model sees in pure noise: ||E(z_T, T, c) - E(z_T, T, empty)||_2, mean over draws.

    A property of the caption and not of the image: it finds captions from which the model repeats what it was trained on.

    Source: Wen et al., Detecting, Explaining, and Mitigating Memorization in Diffusion Models, arXiv 2407.21720, eq. 3.
    """

    name: ClassVar = "memorisation"
    access: ClassVar = Access.GREY
    reference: ClassVar = "Wen et al. 2024, arXiv 2407.21720"

    timestep: Timestep = Field(
        981, description="T: where sampling begins; the default is the first of Stable Diffusion's 50 steps."
    )
    draws: int = Field(2, ge=1, description="Draws of pure noise z_T.")

    def check(self, schedule: Schedule) -> None:
        schedule.check(self.timestep)

    def tells(self) -> frozenset[Ability]:
        return frozenset(("condition",))

    def signals(self) -> list[Signal]:
        return [Signal("memorisation", primary=True)]

    def cost(self) -> Evaluations:
        return Evaluations(forwards=2 * self.draws)

    def score(self, trial: Trial) -> dict[str, Tensor]:
        starts = [trial.initial_noise(draw) for draw in range(self.draws)]
        asked = [(z, self.timestep, trial.text(condition)) for z in starts for condition in (CAPTION, EMPTY)]
        predicted = trial.model.predicted_noises(asked)
        moves = [told - untold for told, untold in zip(predicted[::2], predicted[1::2], strict=True)]
        return {"memorisation": torch.stack([norm(move) for move in moves]).mean(0)}
