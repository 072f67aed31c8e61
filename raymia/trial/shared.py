"""A replica that makes each evaluation at most once and counts what it makes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from raymia.replica.backward import Take, pays_together
from raymia.replica.conditioning import Conditioning
from raymia.replica.device import onto
from raymia.replica.noise import stacked_noise
from raymia.replica.protocol import Replica
from raymia.replica.schedule import Schedule, mix
from raymia.run.record import Evaluations
from raymia.trial.gradients import latent_gradients, parameter_gradients, streamed_gradients
from raymia.trial.kept import Kept

Question = tuple[Float[Tensor, "batch c h w"], int, Conditioning]
"""Noisy latents, timestep and conditioning."""


class SharedReplica:
    """A replica whose results are kept for as long as the tensor they were computed from lives.

    The same tensor object at the same timestep and conditioning is evaluated once; an equal but other tensor is not the
    same. Results of intermediate tensors go with them, so that a long chain of denoising steps holds no memory.

    Attributes:
        evaluations: what was computed so far, in images.
    """

    def __init__(
        self, replica: Replica, lender: SharedReplica | None = None, same_latents: bool = False, same_texts: bool = False
    ) -> None:
        """Begin with nothing computed.

        Args:
            replica: that computes.
            lender: of another model with the same schedule, whose noise and noisy latents are taken where they are made.
            same_latents: take latents of images from there, too.
            same_texts: take what the lender's model was told, too.
        """
        self._replica = replica
        self.evaluations = Evaluations()
        self._kept = Kept()
        self._drawn: Kept = Kept() if lender is None else lender._drawn
        self._encoded: Kept = lender._encoded if lender is not None and same_latents else Kept()
        self._texts: dict[tuple[str, ...], Conditioning] = lender._texts if lender is not None and same_texts else {}

    @property
    def schedule(self) -> Schedule:
        """The model's noise schedule."""
        return self._replica.schedule

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._replica.device

    @property
    def groups(self) -> tuple[str, ...]:
        """What `parameter_group` puts parameters into."""
        return self._replica.groups

    def parameter_group(self, name: str) -> str | None:
        """The part of the denoiser and the kind of layer that a parameter belongs to."""
        return self._replica.parameter_group(name)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of an image of that size in px."""
        return self._replica.latent_shape(height, width)

    def encode(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch c h w"]:
        """Scaled posterior mean."""

        def compute() -> Tensor:
            latents = self._replica.encode(images)
            self.evaluations.encodes += len(images)
            return latents

        return self._encoded.once(images, "encode", compute)

    def encoded(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch c h w"] | None:
        """What `encode` gave for these images, if it was asked."""
        latents: Tensor | None = self._encoded.of(images).get("encode")
        return latents

    def text(self, prompts: Sequence[str]) -> Conditioning:
        """What the model is told under each prompt; equal prompts are encoded once."""
        key = tuple(prompts)
        if key not in self._texts:
            distinct = list(dict.fromkeys(key))
            places = onto(self.device, torch.tensor([distinct.index(prompt) for prompt in key]))
            self._texts[key] = self._replica.text(distinct)[places]
        return self._texts[key]

    def noise(self, like: Float[Tensor, "batch c h w"], seeds: tuple[int, ...]) -> Float[Tensor, "batch c h w"]:
        """Standard normal noise in the shape of `like`, one seed per sample."""
        return self._drawn.once(like, ("noise", seeds), lambda: stacked_noise(tuple(like.shape[1:]), seeds, like.device))

    def noisy(self, z0: Float[Tensor, "batch c h w"], seeds: tuple[int, ...], t: int) -> Float[Tensor, "batch c h w"]:
        """z_t: clean latents with the seeded noise at timestep `t`."""
        return self._drawn.once(z0, ("noisy", seeds, t), lambda: mix(self.schedule, z0, self.noise(z0, seeds), t))

    def predicted_noise(
        self,
        z_t: Float[Tensor, "batch c h w"],
        t: int,
        conditioning: Conditioning,
        precise: bool = False,
    ) -> Float[Tensor, "batch c h w"]:
        """E(z_t, t, conditioning)."""
        return self.predicted_noises([(z_t, t, conditioning)], precise)[0]

    def predicted_noises(self, asked: Sequence[Question], precise: bool = False) -> list[Float[Tensor, "batch c h w"]]:
        """E(z_t, t, conditioning) of several questions that do not depend on each other, in as few calls as the replica takes.

        Args:
            asked: noisy latents, timestep and conditioning of each, all of the same shapes.
            precise: evaluate in float32, whatever the replica computes in.
        """
        replica = self._computing(precise)
        places = [(self._kept.of(z_t), ("predicted_noise", t, id(conditioning), id(replica))) for z_t, t, conditioning in asked]
        new: dict[tuple[int, Hashable], Question] = {}
        for (kept, key), question in zip(places, asked, strict=True):
            if key not in kept:
                new.setdefault((id(kept), key), question)
        together = max(1, self._replica.denoiser_batch // len(asked[0][0])) if asked else 1
        questions = list(new.values())
        for start in range(0, len(questions), together):
            part = questions[start : start + together]
            for (z_t, t, conditioning), noise in zip(part, self._evaluated(replica, part), strict=True):
                # With the conditioning, so that no other takes its identity while the result is kept.
                self._kept.of(z_t)["predicted_noise", t, id(conditioning), id(replica)] = noise, conditioning
        return [kept[key][0] for kept, key in places]

    @torch.no_grad()
    def _evaluated(self, replica: Replica, questions: Sequence[Question]) -> Sequence[Tensor]:
        """One call of the denoiser, or several parts of a single question that is too large for one."""
        (z_t, t, conditioning), count = questions[0], len(questions)
        if count > 1:
            latents, timesteps, texts = zip(*questions, strict=True)
            each = onto(self.device, torch.tensor(timesteps).repeat_interleave(len(z_t)))
            return self._call(replica, torch.cat(latents), each, Conditioning.cat(texts)).chunk(count)
        size = replica.denoiser_batch
        if len(z_t) <= size:
            return [self._call(replica, z_t, t, conditioning)]
        parts = zip(torch.split(z_t, size), conditioning.split(size), strict=True)
        return [torch.cat([self._call(replica, z, t, state) for z, state in parts])]

    def _call(self, replica: Replica, z_t: Tensor, t: int | Tensor, conditioning: Conditioning) -> Tensor:
        noise = replica.predicted_noise(z_t, t, conditioning)
        # Once it is made: one that runs out of memory is none.
        self.evaluations.forwards += len(z_t)
        return noise

    def guided_noise(
        self,
        z_t: Float[Tensor, "batch c h w"],
        t: int,
        conditioning: Conditioning,
        empty: Conditioning,
        guidance: float,
    ) -> Float[Tensor, "batch c h w"]:
        """Classifier-free guidance: E(empty) + guidance (E(conditioning) - E(empty)); at guidance 1 E(conditioning) alone."""
        if guidance == 1.0:
            return self.predicted_noise(z_t, t, conditioning)
        conditional, unconditional = self.predicted_noises([(z_t, t, conditioning), (z_t, t, empty)])
        return unconditional + guidance * (conditional - unconditional)

    def decode(self, z0: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 3 H W"]:
        """Images in [-1, 1]."""

        def compute() -> Tensor:
            images = self._replica.decode(z0)
            self.evaluations.decodes += len(z0)
            return images

        return self._kept.once(z0, "decode", compute)

    def parameter_gradients(
        self, z_t: Tensor, t: int, conditioning: Conditioning, noise: Tensor
    ) -> tuple[dict[str, Tensor], Float[Tensor, "batch c h w"]]:
        """Per-sample gradients of the summed squared error by parameter and by `z_t`; never kept."""
        gradients = parameter_gradients(self._replica, z_t, t, conditioning, noise)
        self._count_backward(z_t)
        return gradients

    def gradients_together(self, samples: int) -> bool:
        """Whether the denoiser is small enough for `parameter_gradients` of as many samples; see `raymia.replica.backward`."""
        return pays_together(self._replica.parameters().values(), samples)

    def streamed_gradients(
        self, z_t: Tensor, t: Sequence[int], conditioning: Conditioning, noise: Tensor, weights: Tensor, take: Take
    ) -> Float[Tensor, "items c h w"]:
        """The gradient of one sample's weighted errors; see `raymia.trial.gradients.streamed_gradients`.

        Activations that a backward pass computes anew are not counted.
        """
        steps = onto(self.device, torch.tensor(t))
        by_latents = streamed_gradients(self._replica, z_t, steps, conditioning, noise, weights, take)
        self._count_backward(z_t)
        return by_latents

    def latent_gradients(
        self, z_t: Tensor, t: int, conditioning: Conditioning, noise: Tensor, precise: bool = False
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch c h w"]]:
        """Per-sample mean squared errors and their gradients by `z_t`; never kept. For `precise` see `predicted_noises`."""
        gradients = latent_gradients(self._computing(precise), z_t, t, conditioning, noise)
        self._count_backward(z_t)
        return gradients

    def _computing(self, precise: bool) -> Replica:
        return self._replica.in_float32() if precise else self._replica

    def _count_backward(self, z_t: Tensor) -> None:
        self.evaluations.forwards += len(z_t)
        self.evaluations.backwards += len(z_t)
