"""A folder of images that a person made by hand, prompt by prompt: the way to a model that offers no interface to programs."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor

from raymia.data.images import MAX_PIXELS, ImageError, decode_image
from raymia.data.shapes import Shapes
from raymia.data.tables import read_table
from raymia.digests import file_digest
from raymia.errors import ConfigError
from raymia.services.protocol import BlackBox, LocalModel, Queries, Query, Service, ServiceError, Surroundings
from raymia.spreadsheet import NUMBER

LIST = "prompts.csv"
ENDINGS = (".png", ".webp", ".jpg", ".jpeg", ".PNG", ".WEBP", ".JPG", ".JPEG")
"""Of a downloaded image, in the place of the ending in the list; of several files the first counts."""
TO_MAKE_IT = "raymia data prompts JOB.yaml writes it"


class Folder(Service):
    """``prompts.csv`` says which image is wanted under which file name; a person makes them, and puts them beside it.

    `raymia data prompts JOB.yaml` writes the list. An image is resized and cut to a square as the works are: both go through
    the same transform, and similarity is taken of what they show, not of their pixels. An image that is not there is a reason
    of its sample, not of the scan. The folder is read wherever images are scored: on a cluster it must be shared.
    """

    name: ClassVar = "folder"
    title: ClassVar = "images that a person made by hand, as of Midjourney"
    capabilities: ClassVar = frozenset(("text_to_image", "prompt"))
    free: ClassVar = frozenset(("max_image_bytes",))

    path: str = Field(min_length=1, description=f"Local folder with {LIST} and the images that are named there.")
    max_image_bytes: int = Field(2**27, ge=2**10, le=2**31, description="A larger file is not read.")

    @field_validator("path")
    @classmethod
    def _is_local(cls, path: str) -> str:
        if "://" in path or "\0" in path:
            raise ValueError("expected a local folder, not a URL; mount the storage, or copy the folder")
        return path

    @property
    def folder(self) -> Path:
        """Where the list and the images are."""
        return Path(self.path).expanduser()

    def fingerprint(self) -> str:
        """A digest of the options and of the list; images that are changed later are a person's own doing."""
        return hashlib.sha256(f"{super().fingerprint()}\n{file_digest(self._list())}".encode()).hexdigest()

    def check(self, kinds: Sequence[Query]) -> None:
        files = self.files()
        if not any(made_in(self.folder, name) for name in files.values()):
            raise ConfigError(
                f"replica.path: {self.path} has none of the {len(files)} images that its {LIST} names; make some of them first"
            )

    def files(self) -> dict[str, str]:
        """File names by the digests of what they answer; see `name_of`.

        Raises:
            ConfigError: there is no list, it is none, or it gives one image to several captions.
        """
        table = read_table(str(self._list()), ["file", "id"], "replica.path:", others=False)
        files = list(zip(table["id"], table["file"], strict=True))
        for number, row in enumerate(files, 1):
            if not all(isinstance(cell, str) and cell for cell in row):
                raise ConfigError(f"replica.path: {self._list()}: row {number} lacks file or id; correct it")
        names = Counter(name.casefold() for _, name in files)
        ids = Counter(identity for identity, _ in files)
        for word, number in (names | ids).items():
            if number > 1:
                raise ConfigError(
                    f"replica.path: {self._list()}: {word} stands in {number} rows; each image has a row and a file of its own"
                )
        return dict(files)

    def _list(self) -> Path:
        file = self.folder / LIST
        if not file.is_file():
            raise ConfigError(f"replica.path: {self.path}: no {LIST}; {TO_MAKE_IT}")
        return file

    def open(self, model: LocalModel | None, surroundings: Surroundings) -> BlackBox:
        return HandMade(self.folder, self.files(), self.max_image_bytes)


class HandMade:
    """See `raymia.services.protocol.BlackBox`."""

    def __init__(self, folder: Path, files: Mapping[str, str], max_bytes: int) -> None:
        """Take the list; images are read when they are asked for.

        Args:
            folder: of the images.
            files: by the digests of what they answer.
            max_bytes: of a file.
        """
        self._folder = folder
        self._files = files
        self._max_bytes = max_bytes

    def answer(self, queries: Queries) -> Float[Tensor, "batch 3 H W"]:
        """See `raymia.services.protocol.BlackBox.answer`."""
        return torch.stack([self._image(query) for query in queries])

    def _image(self, query: Query) -> Float[Tensor, "3 H W"]:
        name = self._files.get(name_of(query.key, query.prompt, query.draw))
        if name is None:
            raise ServiceError("not_asked", f"{LIST} has no image of this caption; {TO_MAKE_IT} anew")
        file = made_in(self._folder, name)
        if file is None:
            raise ServiceError("not_made", f"{name} is not in the folder; make it of the prompt in {LIST}")
        try:
            with file.open("rb") as stream:
                content = stream.read(self._max_bytes + 1)
            if len(content) > self._max_bytes:
                raise ServiceError("answer_too_large", f"{name}: more than max_image_bytes {self._max_bytes}")
            made = decode_image(content, Shapes(((query.height, query.width),)), MAX_PIXELS)
        except (ImageError, OSError) as error:
            raise ServiceError("no_image", f"{name}: {error}") from error
        return torch.tensor(made.pixels).permute(2, 0, 1).float() / 127.5 - 1.0


def name_of(key: str, prompt: str, draw: int) -> str:
    """What tells one image from all others of a scan: data sets often give two samples one key.

    None looks like a number, which a spreadsheet would write in another way.
    """
    digest = hashlib.sha256(f"{key}\0{prompt}\0{draw}".encode()).hexdigest()[:16]
    return f"x{digest}" if NUMBER.fullmatch(digest) else digest


def made_in(folder: Path, name: str) -> Path | None:
    """The file of an image, in whatever format it was saved; none where there is none within the folder."""
    try:
        root = folder.expanduser().resolve()
        for ending in dict.fromkeys((Path(name).suffix, *ENDINGS)):
            file = root / Path(name).with_suffix(ending)
            if file.is_file() and file.resolve().is_relative_to(root):
                return file.resolve()
    except (OSError, RuntimeError, ValueError):
        return None  # no name of a file: empty, too long, or of a link to itself
    return None
