"""A replica that makes each evaluation at most once and counts what it makes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from raymia.replica.gradients import latent_gradients, parameter_gradients
from raymia.replica.protocol import Replica
from raymia.replica.schedule import Schedule, noise_like

T = TypeVar("T")
Question = tuple[Float[Tensor, "batch c h w"], int, Float[Tensor, "batch tokens width"]]
"""Noisy latents, timestep and text states."""


@dataclass
class Evaluations:
    """How often the model ran, in images: a batch of 16 counts 16."""

    unet_forwards: int = 0
    unet_backwards: int = 0
    encodes: int = 0
    decodes: int = 0
    queries: int = 0
    """Images asked of image-to-image and text-to-image calls, as a hosted service would count them."""


class SharedReplica:
    """A replica whose results are kept for as long as the tensor they were computed from lives.

    The same tensor object at the same timestep and text states is evaluated once; an equal but other tensor is not the
    same. Results of intermediate tensors go with them, so that a long chain of denoising steps holds no memory.

    Attributes:
        evaluations: what was computed so far, in images.
    """

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.evaluations = Evaluations()
        self._kept = WeakIdKeyDictionary()
        self._texts: dict[tuple[str, ...], Tensor] = {}

    @property
    def schedule(self) -> Schedule:
        """The model's noise schedule."""
        return self._replica.schedule

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._replica.device

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of an image of that size in px."""
        return self._replica.latent_shape(height, width)

    def encode(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch c h w"]:
        """Scaled posterior mean."""

        def compute() -> Tensor:
            self.evaluations.encodes += len(images)
            return self._replica.encode(images)

        return self.once(images, "encode", compute)

    def text(self, prompts: Sequence[str]) -> Float[Tensor, "batch tokens width"]:
        """Text states; equal prompts are encoded once."""
        key = tuple(prompts)
        if key not in self._texts:
            distinct = list(dict.fromkeys(key))
            places = torch.tensor([distinct.index(prompt) for prompt in key], device=self.device)
            self._texts[key] = self._replica.text(distinct)[places]
        return self._texts[key]

    def noise(self, like: Float[Tensor, "batch c h w"], seeds: tuple[int, ...]) -> Float[Tensor, "batch c h w"]:
        """Standard normal noise in the shape of `like`, one seed per sample."""
        return self.once(like, ("noise", seeds), lambda: stacked_noise(tuple(like.shape[1:]), seeds, like.device))

    def noisy(self, z0: Float[Tensor, "batch c h w"], seeds: tuple[int, ...], t: int) -> Float[Tensor, "batch c h w"]:
        """z_t: clean latents with the seeded noise at timestep `t`."""
        return self.once(z0, ("noisy", seeds, t), lambda: self.schedule.add_noise(z0, self.noise(z0, seeds), t))

    def predicted_noise(
        self,
        z_t: Float[Tensor, "batch c h w"],
        t: int,
        states: Float[Tensor, "batch tokens width"],
        precise: bool = False,
    ) -> Float[Tensor, "batch c h w"]:
        """E(z_t, t, states)."""
        return self.predicted_noises([(z_t, t, states)], precise)[0]

    def predicted_noises(self, asked: Sequence[Question], precise: bool = False) -> list[Float[Tensor, "batch c h w"]]:
        """E(z_t, t, states) of several questions that do not depend on each other, in as few calls as the replica takes well.

        Args:
            asked: noisy latents, timestep and text states of each, all of the same shapes.
            precise: evaluate in float32, whatever the replica computes in.
        """
        replica = self._computing(precise)
        places = [(self._kept_of(z_t), ("predicted_noise", t, id(states), id(replica))) for z_t, t, states in asked]
        new: dict[tuple[int, Hashable], Question] = {}
        for (kept, key), question in zip(places, asked, strict=True):
            if key not in kept:
                new.setdefault((id(kept), key), question)
        together = max(1, self._replica.unet_batch // len(asked[0][0])) if asked else 1
        questions = list(new.values())
        for start in range(0, len(questions), together):
            part = questions[start : start + together]
            for (z_t, t, states), noise in zip(part, self._evaluated(replica, part), strict=True):
                # With the states, so that no other states take their identity while the result is kept.
                self._kept_of(z_t)["predicted_noise", t, id(states), id(replica)] = noise, states
        return [kept[key][0] for kept, key in places]

    @torch.no_grad()
    def _evaluated(self, replica: Replica, questions: Sequence[Question]) -> Sequence[Tensor]:
        """One call of the UNet, or several parts of a single question that is too large for one."""
        (z_t, t, states), count = questions[0], len(questions)
        self.evaluations.unet_forwards += count * len(z_t)
        if count > 1:
            latents, timesteps, texts = zip(*questions, strict=True)
            each = torch.tensor(timesteps, device=self.device).repeat_interleave(len(z_t))
            return replica.predicted_noise(torch.cat(latents), each, torch.cat(texts)).chunk(count)
        size = replica.unet_batch
        if len(z_t) <= size:
            return [replica.predicted_noise(z_t, t, states)]
        parts = zip(torch.split(z_t, size), torch.split(states, size), strict=True)
        return [torch.cat([replica.predicted_noise(z, t, state) for z, state in parts])]

    def guided_noise(
        self,
        z_t: Float[Tensor, "batch c h w"],
        t: int,
        states: Float[Tensor, "batch tokens width"],
        empty: Float[Tensor, "batch tokens width"],
        guidance: float,
    ) -> Float[Tensor, "batch c h w"]:
        """Classifier-free guidance: E(empty) + guidance (E(states) - E(empty)); at guidance 1 E(states) alone."""
        if guidance == 1.0:
            return self.predicted_noise(z_t, t, states)
        conditional, unconditional = self.predicted_noises([(z_t, t, states), (z_t, t, empty)])
        return unconditional + guidance * (conditional - unconditional)

    def decode(self, z0: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 3 H W"]:
        """Images in [-1, 1]."""

        def compute() -> Tensor:
            self.evaluations.decodes += len(z0)
            return self._replica.decode(z0)

        return self.once(z0, "decode", compute)

    def parameter_gradients(
        self, z_t: Tensor, t: int, states: Tensor, noise: Tensor
    ) -> tuple[dict[str, Tensor], Float[Tensor, "batch c h w"]]:
        """Per-sample gradients of the summed squared error by parameter and by `z_t`; never kept."""
        self._count_backward(z_t)
        return parameter_gradients(self._replica, z_t, t, states, noise)

    def latent_gradients(
        self, z_t: Tensor, t: int, states: Tensor, noise: Tensor, precise: bool = False
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch c h w"]]:
        """Per-sample mean squared errors and their gradients by `z_t`; never kept. For `precise` see `predicted_noises`."""
        self._count_backward(z_t)
        return latent_gradients(self._computing(precise), z_t, t, states, noise)

    def _computing(self, precise: bool) -> Replica:
        return self._replica.in_float32() if precise else self._replica

    def _count_backward(self, z_t: Tensor) -> None:
        self.evaluations.unet_forwards += len(z_t)
        self.evaluations.unet_backwards += len(z_t)

    def once(self, tensor: Tensor, key: Hashable, compute: Callable[[], T]) -> T:
        """What `compute` returns, computed once per `tensor` and `key` and kept while the tensor lives."""
        kept = self._kept_of(tensor)
        if key not in kept:
            kept[key] = compute()
        result: T = kept[key]
        return result

    def _kept_of(self, tensor: Tensor) -> dict[Hashable, Any]:
        kept: dict[Hashable, Any] = self._kept.setdefault(tensor, {})  # type: ignore[no-untyped-call]
        return kept


def stacked_noise(shape: tuple[int, ...], seeds: Sequence[int], device: torch.device) -> Float[Tensor, "batch ..."]:
    """Standard normal noise, each sample from its own seed."""
    return torch.stack([noise_like(shape, seed) for seed in seeds]).to(device)
