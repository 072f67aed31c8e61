"""The page of an extraction: works side by side with the images that their captions brought forth."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from raymia.errors import describe_validation
from raymia.evaluation.extraction import SIGNAL, Extraction, Found, decided
from raymia.report.page import EXHIBIT_PX, REPORT, REPORT_FILE, render_page
from raymia.report.thumbnails import thumbnail, thumbnails
from raymia.run.files import DamagedRunError
from raymia.run.ledger import Ledger
from raymia.run.record import ScanRecord
from raymia.run.shown import Identity, read_images
from raymia.run.storage import Storage

EXTRACTION_FILE, GENERATED = "extraction.json", "generated"
"""In the folder of an extraction: what was found, and the run of the scan that asked for images."""
SHOWN = 100
"""Works with their pictures on the page; all of them are in extraction.json."""
MAX_RECORD_BYTES, MAX_IMAGE_BYTES = 2**28, 2**26
IMAGE = re.compile(r"images/\d{3}\.png")


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


@dataclass(frozen=True)
class ExtractionExhibits:
    """A finished extraction, as another page may show it.

    Attributes:
        extraction: what was found.
        decided: whether it can be said of any work that it came back, or did not.
        pairs: the closest works and images, the closest first.
        files: that hold all of it, below the folder of the extraction: the record, and the images of `pairs` that are kept.
    """

    extraction: Extraction
    decided: bool
    pairs: list[Pair]
    files: list[str]


def read_extraction(folder: str, most: int = SHOWN) -> ExtractionExhibits | None:
    """What `raymia extract` left in a folder; none where it has not ended there.

    Args:
        folder: of the extraction.
        most: pairs at most.

    Raises:
        DamagedRunError: the record is none, or an image is not the one that was written.
    """
    storage = Storage(folder)
    content = storage.read(EXTRACTION_FILE, MAX_RECORD_BYTES)
    if content is None:
        return None
    try:
        extraction = Extraction.model_validate_json(content)
    except ValidationError as error:
        problem = describe_validation(error, Extraction)
        raise DamagedRunError(f"{storage.url}/{EXTRACTION_FILE}: not a record of an extraction ({problem})") from error
    images: dict[Identity, bytes] = {}
    files = [EXTRACTION_FILE]
    for one in extraction.works[: min(most, SHOWN)]:
        if one.image is None:
            continue
        name = f"{REPORT}/{one.image}"
        image = storage.read(name, MAX_IMAGE_BYTES) if IMAGE.fullmatch(one.image) else None
        if image is None or hashlib.sha256(image).hexdigest() != one.image_sha256:
            raise DamagedRunError(f"{storage.url}/{name}: not there, or not the image that the record names")
        images[_identity(one)] = image
        files.append(name)
    record = Ledger(f"{storage.url}/{GENERATED}").require_scan()
    pairs = _pairs(record, extraction.works[: min(most, SHOWN)], images)
    return ExtractionExhibits(extraction, decided(extraction), pairs, files)


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
    pairs = _pairs(record, extraction.works[:SHOWN], images)
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


def _pairs(record: ScanRecord, chosen: list[Found], images: dict[Identity, bytes]) -> list[Pair]:
    """Works, read back from their shards, with their images, as PNG that is not trusted."""
    urls = {(shard.split, shard.name): shard.url for shard in record.shards}
    works = thumbnails(urls, [_identity(one) for one in chosen], EXHIBIT_PX)
    made = {place: thumbnail(image, EXHIBIT_PX) for place, image in images.items()}
    return [Pair(one, where(one), works.get(_identity(one)), made.get(_identity(one))) for one in chosen]


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
