"""Exhibits of a scan of a service: the works that generation puts highest, each beside the closest image that was made."""

from __future__ import annotations

import logging
from collections import defaultdict

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from raymia.attacks.generation import Generation
from raymia.data.images import ImageError, decode_image
from raymia.data.tar import RawSample
from raymia.errors import RaymiaError, first_line
from raymia.run.exhibits import FOLDER, LIST, MOST, Exhibit, Exhibits
from raymia.run.ledger import Ledger
from raymia.scan.plan import ScanPlan
from raymia.scan.scorer import images_on
from raymia.services.gate import Outcome, Turn
from raymia.services.hosted import Hosted, png_of
from raymia.services.protocol import Queries, Surroundings
from raymia.shipped import clip_folder
from raymia.trial.similarity import similarity
from raymia.trial.trial import ImageEmbedder, PerceptualDistance, Trial

log = logging.getLogger(__name__)

CPU = torch.device("cpu")


class _Closed:
    """Turns of which there are none: exhibits are made of answers that are kept."""

    async def take(self, question: str) -> Turn:
        """None, for any question."""
        return Turn(over="is not asked for exhibits")

    async def report(self, question: str, outcome: Outcome, wait_s: float | None = None, why: str = "") -> bool:
        """Nothing is reported."""
        return False


def write_exhibits(plan: ScanPlan, ledger: Ledger) -> None:
    """Write the exhibits of a finished scan into its run directory, if a service was asked for images of its captions.

    What cannot be made is said and left out: the scan is done without it.
    """
    job = plan.job
    found = [(key, attack) for key, attack in job.attacks.items() if isinstance(attack, Generation)]
    if job.hosted is None or not found or job.caption_source != "own":
        return
    key, attack = found[0]
    try:
        _write(plan, ledger, key, attack)
    except RaymiaError as error:
        log.warning("exhibits: %s", first_line(error))


def _write(plan: ScanPlan, ledger: Ledger, key: str, attack: Generation) -> None:
    signal = f"{key}.max"
    table = ledger.scores().to_pandas()
    chosen = table.sort_values([signal, "split", "shard", "key"], ascending=[False, True, True, True]).head(MOST)
    pixels = _pixels(plan, chosen)
    exhibits: list[Exhibit] = []
    clip, lpips = _beside(plan, attack)
    box = plan.job.hosted.open(None, Surroundings(ledger.run, _Closed())) if plan.job.hosted is not None else None
    for _, row in chosen.iterrows():
        place = (row["split"], row["shard"], row["key"])
        if place not in pixels:
            continue
        images = images_on(CPU, pixels[place][None])
        trial = Trial(None, images, [row["caption"]], [row["key"]], plan.job.seed, clip, lpips, box)
        made = [trial.text_to_image(draw, attack.steps, attack.guidance) for draw in range(attack.images)]
        alike = torch.stack([similarity(trial, attack.metric, image) for image in made])[:, 0]
        draw = int(alike.argmax())
        name = f"{FOLDER}/{len(exhibits):03d}.png"
        ledger.write_bytes(name, png_of(made[draw][0]))
        seed, answer = _asked(plan, trial, draw, attack)
        member = None if pd.isna(row["member"]) else bool(row["member"])
        exhibits.append(
            Exhibit(
                split=row["split"],
                shard=row["shard"],
                key=row["key"],
                member=member,
                signal=signal,
                score=float(row[signal]),
                prompt=row["caption"],
                seed=seed,
                draw=draw,
                similarity=float(alike[draw]),
                image=name,
                answer=answer,
            )
        )
    ledger.write_text(LIST, Exhibits(exhibits=exhibits).model_dump_json(indent=1) + "\n")


def _asked(plan: ScanPlan, trial: Trial, draw: int, attack: Generation) -> tuple[int | None, str | None]:
    """The seed that a service was given, and the digest of what it sent."""
    service = plan.job.hosted
    if not isinstance(service, Hosted):
        return None, None
    height, width = trial.images.shape[-2:]
    seeds = trial.seeds(draw, "generation")
    queries = Queries(trial.keys, draw, trial.captions, seeds, height, width, attack.steps, attack.guidance)
    asked = service.asked(next(iter(queries)))
    known = service.kept(plan.job.run).find(asked, service.max_answer_bytes)
    return asked.get("seed"), None if known is None else known[0].image


def _pixels(plan: ScanPlan, chosen: pd.DataFrame) -> dict[tuple[str, str, str], NDArray[np.uint8]]:
    """The works' pixels as they were scored, read back from their shards; those that cannot be read are left out."""
    keys: dict[tuple[str, str], set[str]] = defaultdict(set)
    for split, shard, key in chosen[["split", "shard", "key"]].to_numpy():
        keys[split, shard].add(key)
    found = {}
    for reader in plan.readers:
        for item in reader.read() if reader.place in keys else ():
            if not isinstance(item, RawSample) or item.key not in keys[reader.place] or item.image is None:
                continue
            try:
                found[(*reader.place, item.key)] = decode_image(item.image, plan.shapes, plan.job.max_pixels).pixels
            except ImageError:
                continue
    return found


def _beside(plan: ScanPlan, attack: Generation) -> tuple[ImageEmbedder | None, PerceptualDistance | None]:
    """The model that the attack compares by."""
    job = plan.pinned
    # open_clip and lpips take seconds to import, which most scans need not spend.
    if attack.metric == "clip" and job.clip is not None:
        from raymia.features.clip import Clip

        return Clip(clip_folder(job.clip), CPU), None
    if attack.metric == "lpips":
        from raymia.features.lpips import Lpips

        return None, Lpips(job.lpips.net, job.lpips.trunk, CPU)
    return None, None
