"""Gradient: at a training image the loss is close to a minimum, so that its gradient is short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import cosine_similarity

from raymia.attacks.base import Access, Attack, Evaluations, Signal
from raymia.replica.backward import Take
from raymia.replica.device import onto
from raymia.replica.schedule import Schedule
from raymia.trial.parameters import Draws, MicroBatch, Timestep, Timesteps, evaluations_at
from raymia.trial.sketch import add_to_sketch
from raymia.trial.trial import Trial, norm


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
    noise: Draws = Field(
        "own",
        description="`own`: every timestep has draws of its own, so that the mean varies less; `shared`: the k-th draw is the "
        "same at all timesteps.",
    )
    direction_timestep: Timestep = Field(300, description="Timestep at which directions are compared.")
    direction_draws: int = Field(4, ge=2, description="Noise draws whose gradients are compared.")
    sketch_size: int = Field(4096, ge=64, description="Numbers that a gradient is projected to.")
    micro_batch: MicroBatch = Field(
        16,
        description="Samples in one pass, if their gradients take at most 4 GiB: two of the denoiser's size each. Of larger "
        "models each sample has passes of its own, which keep no gradient.",
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
        if trial.model.gradients_together(self.micro_batch):
            parts = [self._score_together(trial, part) for part in trial.micro_batches(self.micro_batch)]
        else:
            parts = [self._score_alone(trial, row) for row in trial.micro_batches(1)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _mean(self) -> list[tuple[int, int]]:
        """Timestep and draw of each evaluation whose errors the score is of the mean of."""
        return evaluations_at(self.timesteps, self.draws, self.noise)

    def _direction(self) -> list[tuple[int, int]]:
        """The evaluations whose gradients' directions are compared: as far as there are any, of those of the mean."""
        own = [draw for t, draw in self._mean() if t == self.direction_timestep]
        draws = dict.fromkeys([*own, *range(len(own) + self.direction_draws)])
        return [(self.direction_timestep, draw) for draw in list(draws)[: self.direction_draws]]

    def _passes(self) -> list[tuple[int, int]]:
        """Timestep and draw of each evaluation, of samples together."""
        return list(dict.fromkeys([*self._mean(), *self._direction()]))

    def _score_together(self, trial: Trial, part: slice) -> dict[str, Tensor]:
        """Scores of some samples: each pass gives the gradients of one evaluation of all of them."""
        averaged, compared = self._mean(), self._direction()
        elements = trial.latents[0].numel() * len(averaged)
        mean: dict[str, Tensor] = {}
        by_input = torch.zeros_like(trial.latents[part])
        sketches: list[Tensor] = []
        for t, draw in self._passes():
            z, conditioning, noise = trial.noisy(t, draw)[part], trial.text()[part], trial.noise(draw)[part]
            by_parameter, by_latent = trial.model.parameter_gradients(z, t, conditioning, noise)
            if (t, draw) in averaged:
                weight = trial.error_weight(t)
                for name, gradient in by_parameter.items():
                    total = mean.setdefault(name, torch.zeros_like(gradient, dtype=torch.float32))
                    total.add_(gradient, alpha=weight / elements)
                by_input += by_latent * (trial.schedule.alpha(t) * weight / elements)
            if (t, draw) in compared:
                sketch = torch.zeros(len(z), self.sketch_size, device=z.device)
                for name, gradient in by_parameter.items():
                    add_to_sketch(sketch, gradient.flatten(1), name)
                sketches.append(sketch)
        squares = {name: gradient.flatten(1).square().sum(1) for name, gradient in mean.items()}
        return self._scores(trial, squares, by_input, sketches)

    def _score_alone(self, trial: Trial, row: slice) -> dict[str, Tensor]:
        """Scores of one sample: one pass gives the gradient of the mean, and one more for each draw a direction."""
        norms: dict[str, Tensor] = {}
        weights = [trial.error_weight(t) for t, _ in self._mean()]
        scale = max(weights)

        def measure(name: str, gradient: Tensor) -> None:
            norms[name] = vector_norm(gradient, dtype=torch.float32)

        by_latents = self._stream(trial, row, self._mean(), [weight / scale for weight in weights], measure)
        scale /= by_latents.numel()
        alphas = [trial.schedule.alpha(t) for t, _ in self._mean()]
        by_input = torch.einsum("i,ichw->chw", onto(by_latents.device, torch.tensor(alphas)).to(by_latents), by_latents) * scale
        sketches = [torch.zeros(1, self.sketch_size, device=by_latents.device) for _ in range(self.direction_draws)]
        for evaluation, sketch in zip(self._direction(), sketches, strict=True):

            def add(name: str, gradient: Tensor, sketch: Tensor = sketch) -> None:
                add_to_sketch(sketch, gradient.reshape(1, -1), name)

            self._stream(trial, row, [evaluation], [1.0], add)
        squares = {name: (length * scale).square()[None] for name, length in norms.items()}
        return self._scores(trial, squares, by_input[None], sketches)

    def _stream(
        self, trial: Trial, row: slice, evaluations: Sequence[tuple[int, int]], weights: Sequence[float], take: Take
    ) -> Tensor:
        """One backward pass of several evaluations of one sample; see `raymia.trial.gradients.streamed_gradients`."""
        z = torch.cat([trial.noisy(t, draw)[row] for t, draw in evaluations])
        noise = torch.cat([trial.noise(draw)[row] for _, draw in evaluations])
        told = trial.text()[row].expand(len(z))
        times = [t for t, _ in evaluations]
        return trial.model.streamed_gradients(z, times, told, noise, onto(z.device, torch.tensor(weights)), take)

    def _scores(
        self, trial: Trial, squares: Mapping[str, Tensor], by_input: Tensor, sketches: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Scores by signal.

        Args:
            trial: of the samples, and perhaps of others.
            squares: (samples,) squared norms by parameter.
            by_input: (samples, c, h, w) gradients by the latents.
            sketches: (samples, size) of each draw.
        """
        zero = torch.zeros(len(by_input), device=by_input.device)
        scores = {
            "gradient": sum(squares.values(), zero).sqrt(),
            "gradient.input": norm(by_input),
        }
        for group in trial.model.groups:
            of_group = (square for name, square in squares.items() if trial.model.parameter_group(name) == group)
            scores[f"gradient.{group}"] = sum(of_group, zero).sqrt()
        cosines = [cosine_similarity(one, other, dim=1) for one, other in combinations(sketches, 2)]
        return {name: -score for name, score in scores.items()} | {"gradient.direction": -torch.stack(cosines).mean(0)}
