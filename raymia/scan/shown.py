"""What attacks show beside their scores, as rows that travel with them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from raymia.attacks.base import Attack, Shown
from raymia.run.shown import LARGEST_PX
from raymia.services.hosted import pixels_of
from raymia.services.protocol import Query, Service
from raymia.trial.trial import Trial


def shown_of(attacks: Mapping[str, Attack], trial: Trial, service: Service | None = None) -> list[list[dict[str, Any]]]:
    """What attacks show of each sample of a trial that they scored, as `raymia.run.shown.ITEM` has it; nothing of most attacks.

    Args:
        attacks: by their names in the job.
        trial: of the samples.
        service: that was asked, which knows the seeds that it was told; none for a model of ours.
    """
    rows: list[list[dict[str, Any]]] = [[] for _ in trial.keys]
    for key, attack in attacks.items():
        if not attack.shows:
            continue
        shown = attack.shown(trial)
        for place, row in enumerate(rows):
            row.append({"attack": key, **_item(shown, place, trial, service)})
    return rows


def _item(shown: Shown, place: int, trial: Trial, service: Service | None) -> dict[str, Any]:
    image, draw = shown.images[place], shown.draws[place]
    height, width = image.shape[-2:]
    seed: int | None = trial.sample_seed(trial.keys[place], draw, "generation")
    if service is not None:
        asked = (trial.captions[place], int(seed or 0), height, width, shown.steps, shown.guidance)
        seed = service.told_seed(Query(trial.keys[place], draw, *asked))
    return {
        "draw": draw,
        "seed": seed,
        "steps": shown.steps,
        "guidance": shown.guidance,
        "height": height,
        "width": width,
        "similarity": float(shown.similarity[place]),
        "within_work": shown.within_work[place][0],
        "within_work_similarity": shown.within_work[place][1],
        "within_image": shown.within_image[place][0],
        "within_image_similarity": shown.within_image[place][1],
        "work": shown.work[place].float().cpu().tolist(),
        "answers": shown.answers[place].float().cpu().tolist(),
        "image": bounded_png(image),
    }


def bounded_png(image: Float[Tensor, "3 H W"]) -> bytes:
    """An image in [-1, 1] as PNG, made smaller where its longer side has more than `LARGEST_PX`."""
    picture = Image.fromarray(pixels_of(image.float().cpu()))
    picture.thumbnail((LARGEST_PX, LARGEST_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
