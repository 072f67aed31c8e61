"""Exhibits of a run: works whose captions brought forth images close to them, each beside the closest."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

from raymia.run.storage import Storage, StorageError

FOLDER = "exhibits"
LIST = f"{FOLDER}/exhibits.json"
MAX_BYTES = 2**26
MOST = 12
"""Exhibits of a run."""


class Exhibit(BaseModel):
    """A work and the closest image that its caption brought forth.

    Attributes:
        split, shard, key: of the work.
        member: its label.
        signal: by which the works were chosen, the highest first.
        score: the work's.
        prompt: that the service was given.
        seed: that it was given; none where it takes none.
        draw: number of the image among those that were asked for.
        similarity: of the work and the image, by the attack's own measure.
        image: file of the image in the run directory.
        answer: sha256 of the image's bytes as the service sent them, by which it lies among the answers.
    """

    model_config = ConfigDict(extra="ignore")

    split: str
    shard: str
    key: str
    member: bool | None
    signal: str
    score: float
    prompt: str
    seed: int | None
    draw: int
    similarity: float
    image: str
    answer: str | None = None


class Exhibits(BaseModel):
    """Contents of exhibits.json."""

    exhibits: list[Exhibit]


def read_exhibits(run: str) -> list[tuple[Exhibit, bytes]]:
    """The exhibits of a run with the bytes of their images, which are not trusted; none where there are none, or not whole."""
    storage = Storage(run)
    try:
        content = storage.read(LIST, MAX_BYTES)
        if content is None:
            return []
        found = Exhibits.model_validate_json(content).exhibits[:MOST]
        images = [storage.read(_inside(exhibit.image), MAX_BYTES) for exhibit in found]
    except (ValidationError, StorageError, ValueError):
        return []
    return [(exhibit, image) for exhibit, image in zip(found, images, strict=True) if image is not None]


def _inside(name: str) -> str:
    """The name of a file of exhibits.

    Raises:
        ValueError: it is none.
    """
    folder, _, file = name.partition("/")
    if folder != FOLDER or "/" in file or "\\" in file or file.startswith("."):
        raise ValueError(f"{name}: no exhibit")
    return name
