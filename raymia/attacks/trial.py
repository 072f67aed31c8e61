"""One batch of samples in front of one replica; every model evaluation is made at most once and shared between attacks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from raymia.replica.schedule import Schedule, noise_like
from raymia.replica.stable_diffusion import Replica

CAPTION = "caption"
EMPTY = "empty"


class ImageEmbedder(Protocol):
    """What a trial asks of a CLIP model."""

    def embed_images(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch width"]:
        """Unit image embeddings of images in [-1, 1]."""
        ...


@dataclass
class Evaluations:
    """How often the model ran, in images: a batch of 16 counts 16."""

    unet_forwards: int = 0
    unet_backwards: int = 0
    encodes: int = 0
    decodes: int = 0


class Trial:
    """Lazy, memoised evaluations of one batch.

    Attributes:
        images: (batch, 3, H, W) in [-1, 1] on the replica's device.
        evaluations: what has been computed so far, in images.
    """

    def __init__(
        self,
        replica: Replica,
        images: Float[Tensor, "batch 3 H W"],
        captions: Sequence[str],
        keys: Sequence[str],
        seed: int,
        clip: ImageEmbedder | None = None,
    ) -> None:
        """Args:
        images: in [-1, 1].
        captions: one per image; the empty string where there is none.
        keys: sample keys; with `seed` they determine all noise.
        clip: needed by attacks that compare embeddings.
        """
        self.replica = replica
        self.images = images.to(replica.device)
        self.captions = list(captions)
        self.keys = list(keys)
        self.seed = seed
        self.evaluations = Evaluations()
        self._clip = clip
        self._memo: dict[Hashable, Tensor] = {}
        # Tensors that stand in a memo key by identity; held, so that no identity is used twice.
        self._held: dict[int, Tensor] = {}

    @property
    def schedule(self) -> Schedule:
        """The replica's noise schedule."""
        return self.replica.schedule

    @property
    def latents(self) -> Float[Tensor, "batch c h w"]:
        """z_0: scaled posterior mean of the images."""

        def compute() -> Tensor:
            self.evaluations.encodes += len(self.images)
            return self.replica.encode(self.images)

        return self._once(("latents",), compute)

    def noise(self, draw: int) -> Float[Tensor, "batch c h w"]:
        """The draw-th noise of each sample, a function of (seed, key, draw) alone."""

        def compute() -> Tensor:
            shape = tuple(self.latents.shape[1:])
            draws = [noise_like(shape, self.sample_seed(key, draw)) for key in self.keys]
            return torch.stack(draws).to(self.latents.device)

        return self._once(("noise", draw), compute)

    def sample_seed(self, key: str, draw: int, purpose: str = "noise") -> int:
        """A 63-bit seed from (seed, key, draw, purpose)."""
        text = "\0".join([purpose, str(self.seed), key, str(draw)])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def noisy(self, t: int, draw: int) -> Float[Tensor, "batch c h w"]:
        """z_t: the latents with the draw-th noise at timestep `t`."""
        return self._once(("noisy", t, draw), lambda: self.schedule.add_noise(self.latents, self.noise(draw), t))

    def text(self, condition: str) -> Float[Tensor, "batch tokens width"]:
        """Text states of a condition: ``caption`` or ``empty``."""
        prompts = {CAPTION: self.captions, EMPTY: [""] * len(self.captions)}[condition]
        return self._once(("text", condition), lambda: self.replica.text(prompts))

    def predicted_noise(self, t: int, draw: int, condition: str = CAPTION) -> Float[Tensor, "batch c h w"]:
        """E(z_t, t, condition) at the draw-th noisy latents."""
        return self.predicted_noise_at(self.noisy(t, draw), t, condition)

    def predicted_noise_at(
        self, z: Float[Tensor, "batch c h w"], t: int, condition: str = CAPTION
    ) -> Float[Tensor, "batch c h w"]:
        """E(z, t, condition); the same tensor object at the same `t` and condition is evaluated once."""

        def compute() -> Tensor:
            self.evaluations.unet_forwards += len(z)
            return self.replica.predicted_noise(z, t, self.text(condition))

        return self._once(("predicted_noise", self._identity(z), t, condition), compute)

    def loss(self, t: int, draw: int, condition: str = CAPTION) -> Float[Tensor, " batch"]:
        """L(t, draw, condition): mean squared difference of true and predicted noise."""

        def compute() -> Tensor:
            return (self.noise(draw) - self.predicted_noise(t, draw, condition)).square().flatten(1).mean(1)

        return self._once(("loss", t, draw, condition), compute)

    def decode(self, z: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 3 H W"]:
        """Images in [-1, 1] for clean latents."""

        def compute() -> Tensor:
            self.evaluations.decodes += len(z)
            return self.replica.decode(z)

        return self._once(("decode", self._identity(z)), compute)

    def reconstruction(self) -> Float[Tensor, "batch 3 H W"]:
        """The images after the autoencoder alone."""
        return self.decode(self.latents)

    def image_to_image(self, t: int, draw: int, steps: int) -> Float[Tensor, "batch 3 H W"]:
        """Noise the latents to timestep `t`, denoise in `steps` DDIM steps under the caption, decode.

        The visited timesteps are t, t (steps-1)/steps, .., t/steps; the last step ends in clean latents.
        """

        def compute() -> Tensor:
            visited = [round(t * (steps - i) / steps) for i in range(steps)]
            z = self.noisy(t, draw)
            for now, following in pairwise(visited):
                z = self.schedule.ddim_move(z, self.predicted_noise_at(z, now), now, following)
            return self.decode(self.schedule.clean_from_noise(z, self.predicted_noise_at(z, visited[-1]), visited[-1]))

        return self._once(("image_to_image", t, draw, steps), compute)

    def embedding(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch width"]:
        """Unit CLIP embeddings of images in [-1, 1].

        Raises:
            RuntimeError: the trial was made without a CLIP; the job's check refuses such jobs before they start.
        """
        clip = self._clip
        if clip is None:
            raise RuntimeError("this trial has no CLIP model")
        return self._once(("embedding", self._identity(images)), lambda: clip.embed_images(images))

    def _identity(self, tensor: Tensor) -> int:
        self._held[id(tensor)] = tensor
        return id(tensor)

    def _once(self, key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        if key not in self._memo:
            self._memo[key] = compute()
        return self._memo[key]
