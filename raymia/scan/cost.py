"""What a set of attacks costs per image, counted before any model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from raymia.attacks.base import Attack
from raymia.attacks.gradient import Gradient
from raymia.replica.conditioning import Conditioning
from raymia.replica.memory import Backward
from raymia.replica.schedule import Schedule
from raymia.run.record import Evaluations
from raymia.scan.calibration import Reference, calibrated, scores_of
from raymia.trial.trial import NoImagesError, Trial

SIDE_PX = 16
SOME_CAPTION = "a caption of six different words"


def count(attacks: Iterable[Attack], schedule: Schedule, reference: bool = False) -> Evaluations:
    """Evaluations per image when these attacks run together, sharing what they can.

    The attacks run, on one image, in front of a model that computes next to nothing: what is counted is what a scan does.

    Args:
        attacks: of a job.
        schedule: of the model.
        reference: whether they run in front of a reference with the same autoencoder, too.
    """
    trial = _hollow_trial(schedule, images=torch.zeros(1, 3, SIDE_PX, SIDE_PX))
    named = {f"{attack.name}:{number}": attack for number, attack in enumerate(attacks)}
    columns = scores_of(named, trial)
    if not reference:
        return trial.evaluations
    beside = Reference(Hollow(schedule), same_latents=True, same_texts=False)
    other = beside.trial(trial)
    calibrated(named, other, columns, beside)
    return trial.evaluations + other.evaluations


def backward_passes(attacks: Mapping[str, Attack], batch_size: int) -> list[Backward]:
    """The backward passes of the attacks that take gradients, for `raymia.replica.memory.predicted_memory`.

    Args:
        attacks: by their names in a job.
        batch_size: samples in front of a replica at once.
    """
    passes = []
    for key, attack in attacks.items():
        if not attack.cost().backwards:
            continue
        if isinstance(attack, Gradient):
            passes.append(Backward(key, "parameters", len(attack.timesteps) * attack.draws, together=attack.micro_batch))
        else:
            samples = min(getattr(attack, "micro_batch", batch_size), batch_size)
            passes.append(Backward(key, "latents", samples, attack.precise))
    return passes


def works_on_images(attack: Attack, schedule: Schedule) -> bool:
    """Whether an attack needs more than the latents of an image, found by running it on latents alone."""
    try:
        attack.score(_hollow_trial(schedule, latents=torch.ones(1, 1, 2, 2)))
    except NoImagesError:
        return True
    return False


def prompts_of(attacks: Iterable[Attack], schedule: Schedule, captions: Sequence[str]) -> list[str]:
    """Every prompt that attacks tell the model of images with these captions, each once, found by running them."""
    images = torch.zeros(len(captions), 3, SIDE_PX, SIDE_PX)
    hollow = Hollow(schedule)
    trial = _hollow_trial(schedule, images, captions=captions, hollow=hollow)
    for attack in attacks:
        attack.score(trial)
    return list(hollow.told)


def _hollow_trial(
    schedule: Schedule,
    images: Tensor | None = None,
    latents: Tensor | None = None,
    captions: Sequence[str] = (SOME_CAPTION,),
    hollow: Hollow | None = None,
) -> Trial:
    model = hollow or Hollow(schedule)
    keys = [str(place) for place in range(len(captions))]
    return Trial(model, images, captions, keys, seed=0, clip=model, lpips=model, copies=model, latents=latents)


class Hollow:
    """Replica, CLIP, LPIPS and copy detector of the right shapes and no content.

    Attributes:
        told: the prompts that it was told, in order.
    """

    device = torch.device("cpu")
    denoiser_batch = 1
    groups: tuple[str, ...] = ("conv_in",)
    batches_gradients = True

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.told: dict[str, None] = {}

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return 1, 2, 2

    def encode(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch c h w"]:
        return torch.ones(len(images), 1, 2, 2)

    def text(self, prompts: Sequence[str]) -> Conditioning:
        self.told |= dict.fromkeys(prompts)
        return Conditioning(states=torch.zeros(len(prompts), 1, 1))

    def predicted_noise(
        self, z_t: Float[Tensor, "batch c h w"], t: int | Tensor, conditioning: Conditioning
    ) -> Float[Tensor, "batch c h w"]:
        return z_t / 2

    def in_float32(self) -> Self:
        return self

    def parameter_group(self, name: str) -> str | None:
        return name.removesuffix(".weight")

    def parameters(self) -> dict[str, Tensor]:
        return {"conv_in.weight": torch.ones(1)}

    def predicted_noise_with(
        self, parameters: Mapping[str, Tensor], z_t: Float[Tensor, "batch c h w"], t: int, conditioning: Conditioning
    ) -> Float[Tensor, "batch c h w"]:
        return z_t * parameters["conv_in.weight"]

    def decode(self, z0: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 3 H W"]:
        return torch.zeros(len(z0), 3, SIDE_PX, SIDE_PX)

    def embed_images(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch width"]:
        return torch.ones(len(images), 1)

    def distance(self, one: Float[Tensor, "batch 3 H W"], other: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, " batch"]:
        return torch.zeros(len(one))
