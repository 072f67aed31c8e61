"""Gradient: at a training image the loss is close to a minimum, so that its gradient is short."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import cosine_similarity

from raymia.attacks.base import Access, Attack, Evaluations, Signal
from raymia.replica.schedule import Schedule
from raymia.trial.parameters import MicroBatch, Timestep, Timesteps
from raymia.trial.sketch import add_to_sketch
from raymia.trial.trial import Trial


class Gradient(Attack):
    """Minus the length of each sample's gradient of the loss, averaged over timesteps and draws.

    ``gradient`` is -||grad_theta of mean over t, k of L(t, k, c)||_2; ``gradient.<part>.<kind>`` the same over the
    parameters of one kind of layer in one part of the denoiser; ``gradient.input`` is -||grad_{z_0} of that mean||_2.
    ``gradient.direction`` is minus the mean cosine between the parameter gradients of different draws at one timestep,
    taken of fixed random projections of them. Norms are accumulated in float32. The mean over timesteps is of errors in the
    space that the model was trained in, as that of ``loss``. Which parts a denoiser has depends on the family.

    Source: Pang et al., White-box Membership Inference Attacks against Diffusion Models, arXiv 2308.06405 (GSA).
    """

    name: ClassVar = "gradient"
    access: ClassVar = Access.WHITE
    reference: ClassVar = "Pang et al. 2023, arXiv 2308.06405"

    timesteps: Timesteps = Field(tuple(range(50, 550, 50)), description="Timesteps over which the loss is averaged.")
    draws: int = Field(1, ge=1, description="K: noise draws per timestep.")
    direction_timestep: Timestep = Field(300, description="Timestep at which directions are compared.")
    direction_draws: int = Field(4, ge=2, description="Noise draws whose gradients are compared.")
    sketch_size: int = Field(4096, ge=64, description="Numbers that a gradient is projected to.")
    micro_batch: MicroBatch = Field(
        16, description="Samples in one pass; each holds two gradients of the denoiser's size in memory."
    )

    def check(self, schedule: Schedule) -> None:
        schedule.check(*self.timesteps, self.direction_timestep)

    def signals(self) -> list[Signal]:
        return [Signal("gradient", primary=True), Signal("gradient.direction"), Signal("gradient.input")]

    def signals_by_group(self, groups: Sequence[str]) -> list[Signal]:
        return [Signal(f"gradient.{group}") for group in groups]

    def cost(self) -> Evaluations:
        passes = len(self._passes())
        return Evaluations(forwards=passes, backwards=passes, encodes=1)

    def score(self, trial: Trial) -> dict[str, Tensor]:
        parts = [self._score_part(trial, part) for part in trial.micro_batches(self.micro_batch)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _passes(self) -> list[tuple[int, int]]:
        mean = [(t, draw) for t in self.timesteps for draw in range(self.draws)]
        return list(dict.fromkeys([*mean, *((self.direction_timestep, draw) for draw in range(self.direction_draws))]))

    def _score_part(self, trial: Trial, part: slice) -> dict[str, Tensor]:
        elements = trial.latents[0].numel() * len(self.timesteps) * self.draws
        mean: dict[str, Tensor] = {}
        by_input = torch.zeros_like(trial.latents[part])
        sketches: list[Tensor] = []
        for t, draw in self._passes():
            z, conditioning, noise = trial.noisy(t, draw)[part], trial.text()[part], trial.noise(draw)[part]
            by_parameter, by_latent = trial.model.parameter_gradients(z, t, conditioning, noise)
            if t in self.timesteps and draw < self.draws:
                weight = trial.error_weight(t)
                for name, gradient in by_parameter.items():
                    total = mean.setdefault(name, torch.zeros_like(gradient, dtype=torch.float32))
                    total.add_(gradient, alpha=weight / elements)
                by_input += by_latent * (trial.schedule.alpha(t) * weight / elements)
            if t == self.direction_timestep and draw < self.direction_draws:
                sketches.append(self._sketch(by_parameter))
        squares = {name: gradient.flatten(1).square().sum(1) for name, gradient in mean.items()}
        zero = torch.zeros(len(by_input), device=by_input.device)
        scores = {
            "gradient": sum(squares.values(), zero).sqrt(),
            "gradient.input": vector_norm(by_input.flatten(1), dim=1),
        }
        for group in trial.model.groups:
            of_group = (square for name, square in squares.items() if trial.model.parameter_group(name) == group)
            scores[f"gradient.{group}"] = sum(of_group, zero).sqrt()
        cosines = [cosine_similarity(one, other, dim=1) for one, other in combinations(sketches, 2)]
        return {name: -score for name, score in scores.items()} | {"gradient.direction": -torch.stack(cosines).mean(0)}

    def _sketch(self, gradients: dict[str, Tensor]) -> Tensor:
        batch = len(next(iter(gradients.values())))
        sketch = torch.zeros(batch, self.sketch_size, device=next(iter(gradients.values())).device)
        for name, gradient in gradients.items():
            add_to_sketch(sketch, gradient.flatten(1), name)
        return sketch
