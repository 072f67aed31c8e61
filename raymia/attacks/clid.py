"""CLiD: a model that was trained on an image with its caption gains more from the caption."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from annotated_types import Gt, Lt
from pydantic import AfterValidator, Field
from torch import Tensor

from raymia.attacks.base import Access, Attack, Evaluations, Signal
from raymia.replica.families import Ability
from raymia.replica.schedule import Schedule
from raymia.trial.parameters import Draws, Timesteps, distinct, evaluations_at
from raymia.trial.trial import CAPTION, EMPTY, Condition, Trial

Share = Annotated[float, Gt(0.0), Lt(1.0)]


class CLiD(Attack):
    """How much the loss falls when the caption is given: L(empty) - L(c), averaged over timesteps and draws.

    Losses are errors in the space that the model was trained in, as in ``loss``. ``clid.words=s`` holds the loss against the
    caption cut to its first share s of words, ``clid.loss`` is -L(c) on the same timesteps and draws. ``clid.ratio`` is the
    mean of log L(empty) - log L(c), in which how hard an image is for the model cancels.

    Source: Zhai et al., Membership Inference on Text-to-Image Diffusion Models via Conditional Likelihood Discrepancy,
    arXiv 2405.14800, eq. 8.
    """

    name: ClassVar = "clid"
    access: ClassVar = Access.GREY
    reference: ClassVar = "Zhai et al. 2024, arXiv 2405.14800"

    timesteps: Timesteps = Field((400, 450, 500), description="Timesteps at which the losses are compared.")
    draws: int = Field(3, ge=1, description="Noise draws per timestep.")
    noise: Draws = Field(
        "own",
        description="`own`: every timestep has draws of its own, whose mean varies less; `shared`: the k-th draw is the same "
        "at all timesteps, so that other attacks find evaluations made.",
    )
    words: Annotated[tuple[Share, ...], AfterValidator(distinct)] = Field(
        (1 / 3, 2 / 3), description="Shares of the caption's words that the cut captions keep."
    )

    def check(self, schedule: Schedule) -> None:
        schedule.check(*self.timesteps)

    def tells(self) -> frozenset[Ability]:
        return frozenset(("condition", "words")) if self.words else frozenset(("condition",))

    def signals(self) -> list[Signal]:
        cut = [Signal(_name(share)) for share in self.words]
        return [Signal("clid", primary=True), *cut, Signal("clid.loss"), Signal("clid.ratio")]

    def cost(self) -> Evaluations:
        return Evaluations(forwards=len(self.timesteps) * self.draws * (2 + len(self.words)), encodes=1)

    def score(self, trial: Trial) -> dict[str, Tensor]:
        conditions = [CAPTION, EMPTY, *(Condition(words=share) for share in self.words)]
        trial.evaluate((t, k, condition) for condition in conditions for t, k in self._places())
        conditional, empty = self._losses(trial, CAPTION), self._losses(trial, EMPTY)
        scores = {"clid": empty.mean(0) - conditional.mean(0)}
        for share in self.words:
            scores[_name(share)] = self._losses(trial, Condition(words=share)).mean(0) - conditional.mean(0)
        return scores | {"clid.loss": -conditional.mean(0), "clid.ratio": (empty.log() - conditional.log()).mean(0)}

    def _places(self) -> list[tuple[int, int]]:
        """Timesteps with the numbers of their draws."""
        return evaluations_at(self.timesteps, self.draws, self.noise)

    def _losses(self, trial: Trial, condition: Condition) -> Tensor:
        """(timesteps x draws, batch) losses, in the space that the model was trained in."""
        return torch.stack([trial.error_weight(t) * trial.loss(t, k, condition) for t, k in self._places()])


def _name(share: float) -> str:
    return f"clid.words={share:.2f}"
