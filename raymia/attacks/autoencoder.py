"""A control that never touches the denoiser: how well the autoencoder alone reproduces the image."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from raymia.attacks.base import Access, Attack, Evaluations, Signal
from raymia.replica.families import Ability
from raymia.trial.trial import Trial


class Autoencoder(Attack):
    """Minus the mean squared error of decode(encode(x)) against x, both in [-1, 1].

    ``autoencoder.latent`` is minus the root of the mean square of the latents z_0: how much the image holds. The autoencoder
    was not trained on the members; if one of the two separates the splits, the images themselves differ.
    """

    name: ClassVar = "autoencoder"
    access: ClassVar = Access.CONTROL
    reference: ClassVar = "control: the denoiser is never evaluated"

    def tells(self) -> frozenset[Ability]:
        return frozenset(("autoencoder",))

    def signals(self) -> list[Signal]:
        return [Signal("autoencoder", primary=True), Signal("autoencoder.latent")]

    def cost(self) -> Evaluations:
        return Evaluations(encodes=1, decodes=1)

    def score(self, trial: Trial) -> dict[str, Tensor]:
        error = (trial.decode(trial.latents) - trial.images).square().flatten(1).mean(1)
        length = trial.latents.square().flatten(1).mean(1).sqrt()
        return {"autoencoder": -error, "autoencoder.latent": -length}
