"""Which works a model gave back when it was told their captions, held against what other captions bring forth."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel

from raymia.errors import RaymiaError
from raymia.evaluation.roc import Floats
from raymia.run.files import EXHIBITS, DamagedRunError
from raymia.run.ledger import Ledger
from raymia.run.record import ScanRecord, copy_detector
from raymia.run.shown import PLACE, read_shown

SIGNAL = "extraction"
"""The attack, by its name in the job, and its primary signal."""
THRESHOLDS = (0.5, 0.6, 0.75)
"""Similarities by SSCD that are published: .5 of arXiv 2212.03860, .75 where 90 % of pairs are copies (arXiv 2202.10261)."""
QUANTILE = 0.999
FEW = 20
"""With fewer captions the floor alone decides nothing: where nothing is memorised, the closest of all pairs is a work and its
own caption's image in one of as many extractions as there are captions."""
TOLERANCE = 1e-3
"""By which a score and the similarity of descriptors that are kept may differ, as rounding does."""
AT_ONCE = 2**25
"""Similarities in memory at a time."""

Role = Literal["chosen", "drawn"]
"""Why a caption was asked: it stood high among all, or all were asked; or it was drawn at random, for the floor."""


class Captions(BaseModel):
    """What became of every sample that the manifest has: chosen + drawn + passed over + without caption + unreadable = read."""

    read: int
    unreadable: dict[str, int]
    """By reason; a shard that cannot be read to its end counts as one."""
    without_caption: int
    passed_over: int
    """That stood lower than those that were chosen, and were not drawn."""
    chosen: int
    drawn: int
    answered: int
    """Of those that were chosen or drawn."""
    unanswered: dict[str, int]
    """By reason."""


class Floor(BaseModel):
    """What likeness there is without any memory of the work: images of other captions, held against it."""

    captions: int
    """Different ones that were asked, and answered."""
    pairs: int
    """Pairs of a work and an image of another's caption that the floor rests on."""
    left_out: int
    """Further pairs, whose caption is the work's own or whose work shows the same picture."""
    one_in: int | None = None
    """Different captions, its own among them, that each work which can be decided is held against, at least; none where none
    can."""
    highest: float | None
    """Similarity of the closest pair; none where there is no pair."""
    quantile: float | None
    """99.9 % of the pairs are no more alike."""


class Match(BaseModel):
    """Where the work and the closest image are most alike: ``whole``, or one of nine parts of half the sides."""

    of_work: str
    """The part of the work that is most like the whole image."""
    of_work_similarity: float
    of_image: str
    """The part of the image that is most like the whole work."""
    of_image_similarity: float


class Found(BaseModel):
    """A work, and the closest of the images that its caption brought forth."""

    split: str
    shard: str
    key: str
    member: bool | None
    """Its label, where labels hold for this model."""
    role: Role
    screened: float | None
    """How far the caption moves what the model sees in noise; none where nothing was screened."""
    caption: str
    similarity: float
    mean: float
    """Over all images of the caption."""
    cluster: int
    """Images of the caption that are near-identical to one another, the largest set of them."""
    above: list[float]
    """Thresholds that the similarity is above."""
    floor: float | None
    """Similarity of the work and the closest image of another's caption."""
    p: float | None
    """Share of different captions, this one among them, with an image at least as close to the work."""
    extracted: bool | None
    """Above every threshold and above the floor; none where there is no floor, or no threshold and few captions that differ."""
    match: Match
    draw: int
    seed: int | None
    steps: int | None
    guidance: float | None
    height: int
    width: int
    image: str | None = None
    """File of the image beside the page, where it is kept."""
    image_sha256: str | None = None


class Extraction(BaseModel):
    """Contents of extraction.json."""

    format: int = 1
    subject: str
    """The model with its adapters, or the service."""
    service: str | None
    fingerprint: str
    detector: str
    """Kind of the copy detector."""
    detector_identity: str | None
    thresholds: list[float]
    """That are published for the detector."""
    near: float
    """Similarity from which on two images of a caption count as near-identical."""
    draws: int
    """Images of each caption."""
    captions: Captions
    floor: Floor
    extracted: int
    """Works that are extracted, chosen and drawn ones."""
    works: list[Found]
    """The most similar first."""
    statements: list[str]


class _Attack(BaseModel):
    """What of the job's attack is to be said."""

    near: float
    draws: int


def make_extraction(run: str, asked: pd.DataFrame, captions: Captions) -> Extraction:
    """What a finished scan with the attack `extraction` found.

    Args:
        run: of the scan.
        asked: split, shard and key of every caption that was asked, its `role`, what it scored when it was screened,
            `screened`, and the number of the picture that its work shows, `picture`, the same for works that show the same.
        captions: what became of all samples; answered and unanswered are counted here.

    Raises:
        DamagedRunError: what the scan left is not as it was written.
        RaymiaError: no caption was answered.
    """
    ledger = Ledger(run)
    record = ledger.require_scan()
    counts = ledger.counts(None)
    if not counts.scored:
        reasons = ", ".join(f"{reason} {number}" for reason, number in counts.by_reason.items())
        raise RaymiaError(f"{run}: no caption was answered ({reasons}); there is nothing to compare")
    rows = _rows(ledger).merge(asked, on=["split", "shard", "key"], how="left", validate="one_to_one")
    if rows["role"].isna().any():
        raise DamagedRunError(f"{run}: holds samples that were not asked for; choose another folder")
    captions = captions.model_copy(update={"answered": counts.scored, "unanswered": counts.by_reason})
    own, others, floor = floor_of(rows)
    thresholds = list(THRESHOLDS) if _detector(record) == "sscd" else []
    enough = 2 if thresholds else FEW
    decided_by = [1 + len(other) for other in others if 1 + len(other) >= enough]
    floor = floor.model_copy(update={"one_in": min(decided_by, default=None)})
    works = [
        _found(row, _Against(similarity, other, thresholds, floor.highest if 1 + len(other) >= enough else None), record)
        for row, similarity, other in zip(rows.to_dict("records"), own, others, strict=True)
    ]
    works.sort(key=lambda work: (-work.similarity, work.split, work.shard, work.key))
    attack = _Attack.model_validate(record.job.model_dump().get("attacks", {}).get(SIGNAL, {}))
    found = Extraction(
        subject=record.job.subject,
        service=record.job.replica.service,
        fingerprint=record.model.fingerprint,
        detector=_detector(record),
        detector_identity=record.model.copies,
        thresholds=thresholds,
        near=attack.near,
        draws=attack.draws,
        captions=captions,
        floor=floor,
        extracted=sum(bool(work.extracted) for work in works),
        works=works,
        statements=[],
    )
    return found.model_copy(update={"statements": statements(found)})


def _detector(record: ScanRecord) -> str:
    try:
        return copy_detector(record.job.copies or "")[0]
    except ValueError as error:
        raise DamagedRunError(f"run.json: job.copies: {error}") from error


def _rows(ledger: Ledger) -> pd.DataFrame:
    """Scored samples with what is shown of them."""
    columns = [*PLACE, "member", "caption", "image_sha256", SIGNAL, f"{SIGNAL}.mean", f"{SIGNAL}.cluster"]
    rows: pd.DataFrame = (
        ledger.scores(columns).to_pandas().merge(read_shown(ledger, SIGNAL), on=PLACE, how="left", validate="one_to_one")
    )
    recomputed = np.array([(answers @ work).max() for work, answers in zip(rows["work"], rows["answers"], strict=True)])
    odd = np.abs(recomputed - rows[SIGNAL].to_numpy(float)) > TOLERANCE
    if odd.any():
        key = rows["key"][odd.argmax()]
        raise DamagedRunError(f"{ledger.run}/{EXHIBITS}: {key}: its score is not that of its descriptors; scan again elsewhere")
    return rows


def floor_of(rows: pd.DataFrame) -> tuple[Floats, list[Floats], Floor]:
    """The similarity of every work and its own caption's images, and each other caption's, and the floor of these.

    Args:
        rows: with the descriptors `work` (width,) and `answers` (draws, width), `caption`, `image_sha256` and `picture`.

    Returns:
        (n,) highest similarity of each work and its own images; for each work (others,) the highest of each different caption,
        without those that are the work's own caption or whose work shows the same picture: a model that has the one by heart
        gives it back under the other's caption, and is right. And the floor over all pairs.
    """
    works = np.stack(list(rows["work"]))
    answers = np.stack(list(rows["answers"]))
    count, draws, width = answers.shape
    texts = pd.factorize(rows["caption"].str.split().str.join(" ").str.casefold())[0]
    same = texts[:, None] == texts[None, :]
    for name in ("image_sha256", "picture"):
        shown = pd.factorize(rows[name])[0]
        same |= shown[:, None] == shown[None, :]
    by_text = np.argsort(texts, kind="stable")
    begins = np.flatnonzero(np.r_[True, np.diff(texts[by_text]) > 0])
    pairs = int((~same).sum()) * draws
    kept = pairs - math.ceil(QUANTILE * pairs) + 1
    own, others, top = np.empty(count), [], np.empty(0)
    step = max(1, AT_ONCE // (count * draws))
    for start in range(0, count, step):
        part = slice(start, start + step)
        alike = (works[part] @ answers.reshape(-1, width).T).reshape(-1, count, draws)
        best = alike.max(2)
        own[part] = best[np.arange(len(best)), np.arange(count)[part]]
        best_of_text = np.maximum.reduceat(np.where(same[part], -np.inf, best)[:, by_text], begins, axis=1)
        others += [row[row > -np.inf] for row in best_of_text]
        top = np.concatenate([top, alike[~same[part]].ravel()])
        if len(top) > kept:
            top = np.partition(top, len(top) - kept)[-kept:]
    floor = Floor(
        captions=len(begins),
        pairs=pairs,
        left_out=count * (count - 1) * draws - pairs,
        highest=float(top.max()) if pairs else None,
        quantile=float(top.min()) if pairs else None,
    )
    return own, others, floor


class _Against:
    """What a work's similarity is held against."""

    def __init__(self, similarity: float, others: Floats, thresholds: list[float], highest: float | None) -> None:
        self.similarity = float(similarity)
        self.above = [threshold for threshold in thresholds if similarity > threshold]
        self.floor = float(others.max()) if len(others) else None
        self.p = (1 + int((others >= similarity).sum())) / (1 + len(others)) if len(others) else None
        self.extracted = None if highest is None else bool(similarity > highest and len(self.above) == len(thresholds))


def _found(row: Mapping[Hashable, Any], against: _Against, record: ScanRecord) -> Found:
    def number(name: str) -> int | None:
        return None if pd.isna(row[name]) else int(row[name])

    known = row["member"] is not None and not pd.isna(row["member"]) and record.labels_hold
    match = Match(
        of_work=str(row["within_work"]),
        of_work_similarity=row["within_work_similarity"],
        of_image=str(row["within_image"]),
        of_image_similarity=row["within_image_similarity"],
    )
    return Found(
        **{name: row[name] for name in ("split", "shard", "key", "role", "caption", "draw", "height", "width")},
        member=bool(row["member"]) if known else None,
        screened=None if pd.isna(row["screened"]) else row["screened"],
        similarity=against.similarity,
        mean=row[f"{SIGNAL}.mean"],
        cluster=round(row[f"{SIGNAL}.cluster"]),
        above=against.above,
        floor=against.floor,
        p=against.p,
        extracted=against.extracted,
        match=match,
        seed=number("seed"),
        steps=number("steps"),
        guidance=None if pd.isna(row["guidance"]) else row["guidance"],
    )


def statements(found: Extraction) -> list[str]:
    """What was found and what it rests on, in sentences."""
    floor = found.floor
    if floor.highest is None or floor.quantile is None:
        said = ["Whether a work was extracted cannot be said: no other caption was answered, so that there is no floor."]
    elif not decided(found):
        said = [
            f"Whether a work was extracted cannot be said: {floor.captions} captions that differ make a floor that says too "
            f"little alone, and there is no threshold beside it; ask at least {FEW} of different works."
        ]
    else:
        bar = f"the floor of {floor.highest:.3f}" + (f" and {max(found.thresholds):g}" if found.thresholds else "")
        said = [
            f"{found.extracted} of {found.captions.answered} works: told the caption {found.draws} times, the model gave an "
            f"image back that is closer to the work than {bar}."
        ]
        if undecided := sum(work.extracted is None for work in found.works):
            said.append(
                f"Of {undecided} of them it cannot be said: too few captions differ from theirs, or are of another picture."
            )
    if floor.highest is not None:
        said.append(
            f"The floor rests on {floor.pairs:,} pairs of a work and an image of another caption, of {floor.captions:,} "
            f"captions; 99.9 % of them are no closer than {floor.quantile:.3f}."
        )
    if floor.one_in is not None:
        said.append(
            "If captions told nothing of their works, some work would be above the floor by chance in at most 1 of "
            f"{floor.one_in:,} such extractions."
        )
    if floor.left_out:
        said.append(
            f"{floor.left_out:,} pairs are not in the floor: their captions are the work's own, or their works show the same "
            "picture."
        )
    return [*said, _of_thresholds(found)]


def decided(found: Extraction) -> bool:
    """Whether it can be said of works that they were extracted, or were not."""
    return any(work.extracted is not None for work in found.works)


def _of_thresholds(found: Extraction) -> str:
    if found.thresholds:
        limits = ", ".join(f"{threshold:g}" for threshold in found.thresholds)
        return (
            f"Published thresholds of SSCD: {limits}; above {found.thresholds[-1]:g} nine pairs of ten are copies in its "
            "authors' data."
        )
    name = {"clip": "CLIP", "dinov2": "DINOv2"}[found.detector]
    return (
        f"{name} was not made to find copies, and no threshold is published for it: works are held against the floor alone, "
        "and an image of the same subject may pass for a copy. Look at the pairs, or compare by SSCD."
    )
