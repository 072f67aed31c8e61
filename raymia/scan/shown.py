"""What attacks show beside their scores, as rows that travel with them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from raymia.attacks.base import Attack, Shown
from raymia.run.shown import LARGEST_PX, most_similar
from raymia.services.hosted import pixels_of
from raymia.services.protocol import BlackBox, Keeps, Query, Service
from raymia.trial.trial import Trial


def shown_of(
    attacks: Mapping[str, Attack], trial: Trial, service: Service | None = None, black_box: BlackBox | None = None
) -> list[list[dict[str, Any]]]:
    """What attacks show of each sample of a trial that they scored, as `raymia.run.shown.ITEM` has it; nothing of most attacks.

    Args:
        attacks: by their names in the job.
        trial: of the samples.
        service: that was asked, which knows the seeds that it was told; none for a model of ours.
        black_box: the service as it is open here, which may know under which name it keeps an answer.
    """
    rows: list[list[dict[str, Any]]] = [[] for _ in trial.keys]
    for key, attack in attacks.items():
        if not attack.exhibits:
            continue
        shown = attack.shown(trial)
        # An image that is not among those of its batch is none of its unit's.
        kept = most_similar([key] * len(rows), shown.similarity.tolist())
        for place, row in enumerate(rows):
            image = bounded_png(shown.images[place]) if kept[place] else None
            row.append({"attack": key, **_item(shown, place, trial, service, black_box), "image": image})
    return rows


def _item(shown: Shown, place: int, trial: Trial, service: Service | None, black_box: BlackBox | None) -> dict[str, Any]:
    draw, (height, width) = shown.draws[place], shown.images.shape[-2:]
    own = trial.sample_seed(trial.keys[place], draw, "generation")
    asked = (trial.captions[place], own, height, width, shown.steps, shown.guidance)
    query = Query(trial.keys[place], draw, *asked)
    seed = own if service is None else service.told_seed(query)
    of_work = (None, None) if shown.within_work is None else shown.within_work[place]
    of_image = (None, None) if shown.within_image is None else shown.within_image[place]
    return {
        "draw": draw,
        "seed": seed,
        "steps": shown.steps,
        "guidance": shown.guidance,
        "height": height,
        "width": width,
        "similarity": float(shown.similarity[place]),
        "within_work": of_work[0],
        "within_work_similarity": of_work[1],
        "within_image": of_image[0],
        "within_image_similarity": of_image[1],
        "work": None if shown.work is None else shown.work[place].float().cpu().tolist(),
        "answers": None if shown.answers is None else shown.answers[place].float().cpu().tolist(),
        "answer": black_box.kept_as(query) if isinstance(black_box, Keeps) else None,
    }


def bounded_png(image: Float[Tensor, "3 H W"]) -> bytes:
    """An image in [-1, 1] as PNG, made smaller where its longer side has more than `LARGEST_PX`."""
    picture = Image.fromarray(pixels_of(image.float().cpu()))
    picture.thumbnail((LARGEST_PX, LARGEST_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
