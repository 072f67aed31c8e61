"""Noise optimisation: near a training image, a small change of the noisy latents makes the prediction exact."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from raymia.attacks.base import Access, Attack, Evaluations, Signal
from raymia.replica.schedule import Schedule
from raymia.trial.lbfgs import minimise
from raymia.trial.parameters import MicroBatch, Timestep
from raymia.trial.trial import Trial, mean_squared, norm


class NoiseOptimisation(Attack):
    """Minus the loss that is left after a few L-BFGS steps on the noisy latents, each sample on its own.

    delta minimises mean (E(z_t + delta, t, c) - e)^2 from delta = 0; score = -(final loss), ``.delta`` is -||delta||_2.
    L-BFGS takes differences of gradients, so that all is evaluated in float32 whatever the replica computes in.

    Source: Dubinski et al., CDI: Copyrighted Data Identification in Diffusion Models, arXiv 2411.12858, section 4.
    """

    name: ClassVar = "noise_optimisation"
    access: ClassVar = Access.WHITE
    reference: ClassVar = "Dubinski et al. 2024, arXiv 2411.12858"
    precise: ClassVar = True

    timestep: Timestep = Field(100, description="t of the noisy latents.")
    steps: int = Field(5, ge=1, description="L-BFGS steps.")
    micro_batch: MicroBatch = Field(16, description="Samples in one backward pass.")

    def check(self, schedule: Schedule) -> None:
        schedule.check(self.timestep)

    def signals(self) -> list[Signal]:
        return [Signal("noise_optimisation", primary=True), Signal("noise_optimisation.delta")]

    def cost(self) -> Evaluations:
        return Evaluations(forwards=self.steps + 1, backwards=self.steps, encodes=1)

    def score(self, trial: Trial) -> dict[str, Tensor]:
        t, start = self.timestep, trial.noisy(self.timestep, 0)
        end = minimise(lambda z: trial.latent_gradients(z, t, 0, self.micro_batch, precise=True), start, self.steps)
        left = mean_squared(trial.noise(0) - trial.predicted_noise_at(end, t, precise=True))
        return {
            "noise_optimisation": -left,
            "noise_optimisation.delta": -norm(end - start),
        }
