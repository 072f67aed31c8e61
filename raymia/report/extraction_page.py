"""The page of an extraction: works side by side with the images that their captions brought forth."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from raymia.evaluation.extraction import SIGNAL, Extraction, Found, decided
from raymia.report.page import EXHIBIT_PX, REPORT, REPORT_FILE, render_page
from raymia.report.thumbnails import thumbnail, thumbnails
from raymia.run.ledger import Ledger
from raymia.run.shown import Identity, read_images
from raymia.run.storage import Storage

SHOWN = 100
"""Works with their pictures on the page; all of them are in extraction.json."""


@dataclass(frozen=True)
class Pair:
    """A work and the closest image of its caption, as data URLs of JPEGs; none where one is not kept or not readable any more.

    Attributes:
        where: in words, where the two are most alike.
    """

    found: Found
    where: str
    work: str | None
    image: str | None


def with_images(out: Storage, run: str, extraction: Extraction) -> tuple[Extraction, dict[Identity, bytes]]:
    """Write the images of the works that stand highest beside the page; the extraction with their files, and the images.

    Args:
        out: folder of the extraction.
        run: of the scan.
        extraction: what was found.
    """
    chosen = extraction.works[:SHOWN]
    images = read_images(Ledger(run), SIGNAL, {_identity(one) for one in chosen})
    works = list(extraction.works)
    for number, one in enumerate(chosen):
        if (content := images.get(_identity(one))) is None:
            continue
        name = f"images/{number:03d}.png"
        out.write(f"{REPORT}/{name}", content)
        works[number] = one.model_copy(update={"image": name, "image_sha256": hashlib.sha256(content).hexdigest()})
    return extraction.model_copy(update={"works": works}), images


def write_extraction_page(out: Storage, run: str, extraction: Extraction, images: dict[Identity, bytes]) -> str:
    """Write the page; return where it is.

    Args:
        out: folder of the extraction.
        run: of the scan.
        extraction: what was found, with the files of its images.
        images: as PNG, not trusted.
    """
    record = Ledger(run).require_scan()
    chosen = extraction.works[:SHOWN]
    urls = {(shard.split, shard.name): shard.url for shard in record.shards}
    works = thumbnails(urls, [_identity(one) for one in chosen], EXHIBIT_PX)
    pairs = [
        Pair(
            one,
            where(one),
            works.get(_identity(one)),
            thumbnail(images[_identity(one)], EXHIBIT_PX) if _identity(one) in images else None,
        )
        for one in chosen
    ]
    page = render_page(
        "extraction.html",
        extraction=extraction,
        decided=decided(extraction),
        record=record,
        pairs=pairs,
        day=f"{datetime.fromisoformat(record.finished or record.started):%d %B %Y}",
    )
    out.write(REPORT_FILE, page.encode())
    return f"{out.url}/{REPORT_FILE}"


def where(found: Found) -> str:
    """Where a work and its closest image are most alike, in words."""
    match = found.match
    closest = max((found.similarity, "whole"), (match.of_work_similarity, "work"), (match.of_image_similarity, "image"))[1]
    if closest == "work" and match.of_work != "whole":
        return f"the image to the {_part(match.of_work)} of the work ({match.of_work_similarity:.3f})"
    if closest == "image" and match.of_image != "whole":
        return f"the work to the {_part(match.of_image)} of the image ({match.of_image_similarity:.3f})"
    return "whole to whole"


def _part(word: str) -> str:
    return f"{word} part" if word in ("left", "right") else word


def _identity(found: Found) -> Identity:
    return found.split, found.shard, found.key
