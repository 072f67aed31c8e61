"""What attacks will ask of a service, found before it is asked by running them in front of one that answers nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from raymia.attacks.base import Attack
from raymia.replica.schedule import level_names
from raymia.scan.calibration import scores_of
from raymia.scan.cost import SIDE_PX, SOME_CAPTION, Hollow
from raymia.services.hosted import Hosted
from raymia.services.protocol import Queries, Query, Service
from raymia.trial.trial import Trial


def queries_of(
    attacks: Mapping[str, Attack],
    images: Float[Tensor, "batch 3 H W"],
    captions: Sequence[str],
    keys: Sequence[str],
    seed: int,
) -> list[Queries]:
    """Everything that attacks ask of a service of one batch, each once, in the order in which they do.

    An attack that makes its later questions of earlier answers asks more than is found here, when its turn has come.

    Args:
        attacks: by their names in a job.
        images: in [-1, 1].
        captions, keys: one per image.
        seed: of the job.
    """
    asked = _Asked()
    hollow = Hollow(level_names())
    small = torch.zeros(len(keys), 3, SIDE_PX, SIDE_PX)
    scores_of(attacks, Trial(None, small, captions, keys, seed, clip=hollow, lpips=hollow, black_box=asked, copies=hollow))
    height, width = images.shape[-2:]
    return [
        replace(queries, height=height, width=width, images=None if queries.images is None else images)
        for queries in asked.queries
    ]


def kinds_of(attacks: Mapping[str, Attack], side_px: int) -> list[Query]:
    """One question of every kind that attacks ask of a service, about an image of no sample."""
    waves = torch.linspace(0.0, 12.0, side_px).sin()
    picture = (waves[:, None] * waves[None, :])[None].repeat(3, 1, 1) * torch.tensor([0.9, 0.6, 0.3])[:, None, None]
    found: dict[tuple[object, ...], Query] = {}
    for queries in queries_of(attacks, picture[None], [SOME_PROMPT], ["first questions"], 0):
        kind = (queries.steps, queries.guidance, queries.strength, queries.images is None)
        if queries.strength != 0.0:
            found.setdefault(kind, next(iter(queries)))
    return list(found.values())


def images_asked(attacks: Mapping[str, Attack], service: Service) -> int:
    """Images that attacks ask of a service for each sample; what is made here of a hosted one's autoencoder is none of them."""
    found = queries_of(attacks, torch.zeros(1, 3, SIDE_PX, SIDE_PX), [SOME_CAPTION], ["0"], 0)
    return sum(len(queries) for queries in found if queries.strength != 0.0 or not isinstance(service, Hosted))


SOME_PROMPT = "a wooden table with a bowl of apples beside a window"
"""Of the first questions: what every service will draw."""


class _Asked:
    """Keeps what it is asked; see `raymia.services.protocol.BlackBox`."""

    def __init__(self) -> None:
        self.queries: list[Queries] = []

    def answer(self, queries: Queries) -> Tensor:
        self.queries.append(queries)
        return torch.zeros(len(queries), 3, queries.height, queries.width)
