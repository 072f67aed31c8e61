"""One batch of samples in front of one replica; every model evaluation is made at most once and shared between attacks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vector_norm

from raymia.replica.conditioning import Conditioning
from raymia.replica.device import onto
from raymia.replica.noise import stacked_noise
from raymia.replica.protocol import Replica
from raymia.replica.schedule import Schedule, level_names
from raymia.run.record import Evaluations
from raymia.services.local import LocalPipeline
from raymia.services.protocol import BlackBox, Queries
from raymia.trial.kept import Kept
from raymia.trial.shared import SharedReplica

T = TypeVar("T")


@runtime_checkable
class ImageEmbedder(Protocol):
    """What a trial asks of a CLIP model, and of a copy detector."""

    def embed_images(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch width"]:
        """Unit image embeddings of images in [-1, 1]."""
        ...


@runtime_checkable
class PerceptualDistance(Protocol):
    """What a trial asks of an LPIPS model."""

    def distance(self, one: Float[Tensor, "batch 3 H W"], other: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, " batch"]:
        """LPIPS of images in [-1, 1]; 0 for identical ones."""
        ...


@dataclass(frozen=True)
class Condition:
    """What the model is told about the image."""

    words: float = 1.0
    """Share of the caption's words that are kept, from its start: 1 is the caption as it is, 0 the empty prompt."""
    shift: float = 0.0
    """Standard deviation of the normal noise added to the text states."""

    def prompt(self, caption: str) -> str:
        """The caption cut to its first words, to the nearest whole word."""
        if self.words == 1.0:
            return caption
        words = caption.split()
        return " ".join(words[: int(self.words * len(words) + 0.5)])


CAPTION = Condition()
EMPTY = Condition(words=0.0)


class NoModelError(RuntimeError):
    """An attack evaluates a model where there is a service alone, which makes images and nothing else."""


class NoImagesError(RuntimeError):
    """An attack works on images where there are latents alone."""


class Trial:
    """Lazy, memoised evaluations of one batch.

    Attributes:
        captions, keys: one per image.
        evaluations: what has been computed so far, in images.
    """

    def __init__(
        self,
        replica: Replica | None,
        images: Float[Tensor, "batch 3 H W"] | None,
        captions: Sequence[str],
        keys: Sequence[str],
        seed: int,
        clip: ImageEmbedder | None = None,
        lpips: PerceptualDistance | None = None,
        black_box: BlackBox | None = None,
        latents: Float[Tensor, "batch c h w"] | None = None,
        sizes: Float[Tensor, "batch 4"] | None = None,
        copies: ImageEmbedder | None = None,
    ) -> None:
        """Take a batch; nothing is computed yet.

        Args:
            replica: the attacked model; none where a service is attacked.
            images: in [-1, 1]; none where latents are given and no attack works on images.
            captions: one per image; the empty string where there is none.
            keys: sample keys; with `seed` they determine all noise.
            seed: of all noise.
            clip: needed by attacks that compare embeddings.
            lpips: needed by attacks that compare by LPIPS.
            black_box: the service that black-box attacks ask; by default the local pipeline over the replica.
            latents: of the images, where they are known; by default the images are encoded.
            sizes: height and width of each image's file, and top and left of its crop once it was resized, for a model that is
                told of them; by default it is told of the scanned image's.
            copies: needed by attacks that compare by a copy detector.

        Raises:
            ValueError: neither a replica nor a service is given.
        """
        if replica is None and black_box is None:
            raise ValueError("a trial needs a replica or a service")
        self._model = None if replica is None else SharedReplica(replica)
        self.evaluations = Evaluations() if self._model is None else self._model.evaluations
        self._images = images if images is None or replica is None else images.to(replica.device)
        self._latents = latents
        self._sizes = sizes
        self.captions = list(captions)
        self.keys = list(keys)
        self._seed = seed
        self._clip = clip
        self._lpips = lpips
        self._copies = copies
        self._black_box = black_box if black_box is not None else LocalPipeline(self.model)
        self._memo: dict[Hashable, Any] = {}
        self._kept = Kept()

    def under(self, replica: Replica, same_latents: bool, same_texts: bool) -> Trial:
        """The same batch in front of another model, under the same noise; what is the same for both is computed once.

        Args:
            replica: of the other model, with the same schedule.
            same_latents: its autoencoder is this model's.
            same_texts: its text encoders are this model's.
        """
        latents = self._latents if same_latents else None
        beside: dict[str, Any] = {"clip": self._clip, "lpips": self._lpips, "copies": self._copies}
        beside |= {"latents": latents, "sizes": self._sizes}
        other = Trial(replica, self._images, self.captions, self.keys, self._seed, **beside)
        other._model = SharedReplica(replica, self.model, same_latents, same_texts)
        other.evaluations = other._model.evaluations
        other._black_box = LocalPipeline(other._model)
        other._kept = self._kept
        return other

    @property
    def model(self) -> SharedReplica:
        """The replica, which keeps and counts what it computes; for evaluations at other images or latents.

        Raises:
            NoModelError: a service is attacked.
        """
        if self._model is None:
            raise NoModelError("a service offers images alone; the attack evaluates the model itself")
        return self._model

    @property
    def schedule(self) -> Schedule:
        """The replica's noise schedule; where a service is attacked, the one that names the levels."""
        return level_names() if self._model is None else self._model.schedule

    @property
    def images(self) -> Float[Tensor, "batch 3 H W"]:
        """In [-1, 1] on the replica's device.

        Raises:
            NoImagesError: the trial was made from latents alone.
        """
        if self._images is None:
            raise NoImagesError("this trial was made from latents and has no images")
        return self._images

    @property
    def latents(self) -> Float[Tensor, "batch c h w"]:
        """z_0: scaled posterior mean of the images."""
        return self.model.encode(self.images) if self._latents is None else self._latents

    @property
    def latents_at_hand(self) -> Float[Tensor, "batch c h w"] | None:
        """z_0 where they were given or have been computed; nothing is computed."""
        if self._latents is not None or self._model is None or self._images is None:
            return self._latents
        return self._model.encoded(self._images)

    def varied(self, name: Hashable, vary: Callable[[Tensor], Tensor]) -> Float[Tensor, "batch 3 H W"]:
        """A variation of the images, made once for each name."""
        images: Tensor = self._kept.once(self.images, ("varied", name), lambda: vary(self.images))
        return images

    def seeds(self, draw: int, purpose: str = "noise") -> tuple[int, ...]:
        """A 63-bit seed for each sample, a function of (seed, key, draw, purpose) alone."""
        return self._once(("seeds", draw, purpose), lambda: tuple(self.sample_seed(key, draw, purpose) for key in self.keys))

    def sample_seed(self, key: str, draw: int, purpose: str = "noise") -> int:
        """A 63-bit seed from (seed, key, draw, purpose)."""
        text = "\0".join([purpose, str(self._seed), key, str(draw)])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def noise(self, draw: int) -> Float[Tensor, "batch c h w"]:
        """The draw-th noise of each sample."""
        return self.model.noise(self.latents, self.seeds(draw))

    def initial_noise(self, draw: int) -> Float[Tensor, "batch c h w"]:
        """Pure noise that sampling would begin with, in the shape of the latents; nothing is encoded for it."""
        shape = self.model.latent_shape(*self.images.shape[-2:]) if self._latents is None else tuple(self._latents.shape[1:])
        return self._once(("initial", draw), lambda: stacked_noise(shape, self.seeds(draw, "initial"), self.model.device))

    def noisy(self, t: int, draw: int) -> Float[Tensor, "batch c h w"]:
        """z_t: the latents with the draw-th noise at timestep `t`."""
        return self.model.noisy(self.latents, self.seeds(draw), t)

    def text(self, condition: Condition = CAPTION) -> Conditioning:
        """What the model is told under a condition."""
        told = self._once(("told", condition.words), lambda: self._told(condition))
        if condition.shift == 0.0:
            return told

        def compute() -> Conditioning:
            shape = () if told.states is None else tuple(told.states.shape[1:])
            noise = stacked_noise(shape, self.seeds(0, "text"), self.model.device)
            return told.shifted(noise, condition.shift)

        return self._once(("text", condition), compute)

    def _told(self, condition: Condition) -> Conditioning:
        told = self.model.text([condition.prompt(caption) for caption in self.captions])
        return told if self._sizes is None else replace(told, ids=onto(self.model.device, self._sizes))

    def predicted_noise(self, t: int, draw: int, condition: Condition = CAPTION) -> Float[Tensor, "batch c h w"]:
        """E(z_t, t, condition) at the draw-th noisy latents."""
        return self.predicted_noise_at(self.noisy(t, draw), t, condition)

    def predicted_noise_at(
        self, z: Float[Tensor, "batch c h w"], t: int, condition: Condition = CAPTION, precise: bool = False
    ) -> Float[Tensor, "batch c h w"]:
        """E(z, t, condition); the same tensor object at the same `t` and condition is evaluated once.

        Args:
            precise: evaluate in float32, whatever the replica computes in; for an attack that says so of itself.
        """
        return self.model.predicted_noise(z, t, self.text(condition), precise)

    def loss(self, t: int, draw: int, condition: Condition = CAPTION) -> Float[Tensor, " batch"]:
        """L(t, draw, condition): mean squared difference of true and predicted noise."""
        return self._once(
            ("loss", t, draw, condition),
            lambda: mean_squared(self.noise(draw) - self.predicted_noise(t, draw, condition)),
        )

    def error_weight(self, t: int) -> float:
        """Squared errors of the noise at `t` times this are errors of the denoiser's output, which the model was trained on.

        Means over timesteps are of these: in a flow the noise's own would count high levels next to nothing.
        """
        return 1.0 / self.schedule.noise_by_output(t) ** 2

    def evaluate(self, places: Iterable[tuple[int, int, Condition]]) -> None:
        """Evaluate E(z_t, t, condition) at several (t, draw, condition) together, for `predicted_noise` and `loss` to find."""
        self.model.predicted_noises([(self.noisy(t, draw), t, self.text(condition)) for t, draw, condition in places])

    def latent_gradients(
        self, z: Float[Tensor, "batch c h w"], t: int, draw: int, micro_batch: int, precise: bool = False
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch c h w"]]:
        """Mean squared error of the predicted noise at `z` against the draw-th noise, and its gradient by `z`.

        Args:
            micro_batch: samples in one backward pass.
            precise: see `predicted_noise_at`.
        """
        conditioning, noise = self.text(), self.noise(draw)
        parts = [
            self.model.latent_gradients(z[part], t, conditioning[part], noise[part], precise)
            for part in self.micro_batches(micro_batch)
        ]
        losses, gradients = zip(*parts, strict=True)
        return torch.cat(losses), torch.cat(gradients)

    def micro_batches(self, size: int) -> list[slice]:
        """The batch in parts of at most `size` samples."""
        return [slice(start, start + size) for start in range(0, len(self.keys), size)]

    def decode(self, z: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 3 H W"]:
        """Images in [-1, 1] for clean latents."""
        return self.model.decode(z)

    def image_to_image(
        self, t: int, draw: int, steps: int | None, guidance: float | None = 1.0
    ) -> Float[Tensor, "batch 3 H W"]:
        """Ask the black box for variations of the images at noise level `t`, under their captions.

        Args:
            t: noise level.
            draw: number of the noise.
            steps, guidance: of each; none leaves them to a service that takes none.
        """

        def compute() -> Tensor:
            strength = t / self.schedule.timesteps
            return self._asked(draw, self.seeds(draw), steps, guidance, self.images, strength)

        return self._once(("image_to_image", t, draw, steps, guidance), compute)

    def reconstruction(self) -> Float[Tensor, "batch 3 H W"]:
        """The images after the autoencoder alone: image-to-image without noise."""
        return self.image_to_image(0, 0, 0)

    def text_to_image(self, draw: int, steps: int | None, guidance: float | None) -> Float[Tensor, "batch 3 H W"]:
        """Ask the black box for images of the captions, in the size of the originals; see `image_to_image`."""
        seeds = self.seeds(draw, "generation")
        return self._once(
            ("text_to_image", draw, steps, guidance), lambda: self._asked(draw, seeds, steps, guidance, None, None)
        )

    def _asked(
        self,
        draw: int,
        seeds: Sequence[int],
        steps: int | None,
        guidance: float | None,
        images: Tensor | None,
        strength: float | None,
    ) -> Tensor:
        height, width = self.images.shape[-2:]
        self.evaluations.queries += len(self.images)
        return self._black_box.answer(
            Queries(self.keys, draw, self.captions, seeds, height, width, steps, guidance, images, strength)
        )

    def embedding(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch width"]:
        """Unit CLIP embeddings of images in [-1, 1].

        Raises:
            RuntimeError: the trial was made without a CLIP; the job's check refuses such jobs before they start.
        """
        clip = self._clip
        if clip is None:
            raise RuntimeError("this trial has no CLIP model")
        return self._kept.once(images, "embedding", lambda: clip.embed_images(images))

    def descriptor(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch width"]:
        """Unit descriptors of images in [-1, 1] by the copy detector.

        Raises:
            RuntimeError: the trial was made without a copy detector.
        """
        copies = self._copies
        if copies is None:
            raise RuntimeError("this trial has no copy detector")
        return self._kept.once(images, "descriptor", lambda: copies.embed_images(images))

    def lpips(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, " batch"]:
        """LPIPS distance between the trial's images and `images`.

        Raises:
            RuntimeError: the trial was made without an LPIPS model.
        """
        lpips = self._lpips
        if lpips is None:
            raise RuntimeError("this trial has no LPIPS model")
        return self._kept.once(images, "lpips", lambda: lpips.distance(self.images, images))

    def _once(self, key: Hashable, compute: Callable[[], T]) -> T:
        if key not in self._memo:
            self._memo[key] = compute()
        kept: T = self._memo[key]
        return kept


def norm(x: Float[Tensor, "batch ..."], p: float = 2.0) -> Float[Tensor, " batch"]:
    """The p-norm of each sample's elements."""
    lengths: Tensor = vector_norm(x.flatten(1), ord=p, dim=1)
    return lengths


def mean_squared(difference: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """Mean of the squared elements of each sample."""
    return difference.square().flatten(1).mean(1)
