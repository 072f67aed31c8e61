"""Latents kept from scan to scan, so that another checkpoint with the same autoencoder need not decode and encode again."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from raymia.data.shapes import Shapes
from raymia.errors import ConfigError, RaymiaError
from raymia.run.columns import FAULT, fields
from raymia.run.storage import Storage, StorageError
from raymia.urls import public

TRANSFORM = "Lanczos, centre square, 2"
"""From image files to pixels; another name whenever `raymia.data.images.decode_image` comes to give other pixels."""
IMAGE_SCHEMA = pa.schema([*fields("decode"), *FAULT, ("latents", pa.binary())])
"""One image: what decoding found out about it, or why it failed, and its latents as bytes."""


@dataclass(frozen=True)
class Kept:
    """What is known of the images of a batch."""

    facts: list[dict[str, Any]]
    """Of each image what decoding found out about it, or why it failed."""
    latents: list[Float[np.ndarray, "c h w"]]
    """Of the images that can be decoded, in order; float32."""

    def images(self) -> list[str]:
        """sha256 of the images that can be decoded."""
        return [row["image_sha256"] for row in self.facts if row["reason"] is None]


@dataclass(frozen=True)
class LatentCache:
    """A folder with a table for each batch of images, found by the images' hashes.

    Attributes:
        url: of the folder.
        key: of all that latents follow from besides the image: autoencoder, transform, size.
        channels, factor: of the latents, and pixels by side of one.
        shapes: of the images.
        images_too: some attack works on images, so that they are decoded even where latents are known.
    """

    url: str
    key: str
    channels: int
    factor: int
    shapes: Shapes
    images_too: bool

    def shape_of(self, sample: dict[str, Any]) -> tuple[int, int, int]:
        """Shape of the latents of an image of which the upright size is known."""
        height, width = self.shapes.nearest(sample["height"], sample["width"])
        return self.channels, height // self.factor, width // self.factor

    def require_writable(self) -> None:
        """Make the folder and try a write.

        Raises:
            ConfigError: it cannot be written.
        """
        try:
            Storage(self.url).try_write()
        except (OSError, ValueError, ImportError, StorageError) as error:
            where = public(self.url)
            raise ConfigError(f"latent_cache {where}: cannot be written ({error}); give a folder or an fsspec URL") from error

    def load(self, hashes: Sequence[str]) -> Kept | None:
        """What is kept of a batch of images; none where nothing is.

        Args:
            hashes: sha256 of each image file.

        Raises:
            RaymiaError: the table is damaged, or storage failed every time.
        """
        storage, name = Storage(self.url), self._name(hashes)
        content = storage.read(name)
        if content is None:
            return None
        try:
            facts = pq.read_table(io.BytesIO(content), schema=IMAGE_SCHEMA).to_pylist()
            latents = [row.pop("latents") for row in facts]
            arrays = [
                np.frombuffer(one, np.float32).reshape(self.shape_of(row))
                for row, one in zip(facts, latents, strict=True)
                if one is not None and row["reason"] is None
            ]
            if [row["image_sha256"] for row in facts] != list(hashes):
                raise ValueError("it is of other images")
            if [one is None for one in latents] != [row["reason"] is not None for row in facts]:
                raise ValueError("it lacks latents")
        except (pa.ArrowException, ValueError) as error:
            raise RaymiaError(f"{storage.url}/{name}: damaged ({error}); delete it and run the same command again") from error
        return Kept(facts, arrays)

    def store(self, samples: Sequence[dict[str, Any]], latents: Sequence[Float[np.ndarray, "c h w"]]) -> None:
        """Keep a batch.

        Args:
            samples: of each image that could be read, in order, what decoding found out about it or why it failed.
            latents: of the images that can be decoded, in order.

        Raises:
            StorageError: storage is full, refuses, or failed every time.
        """
        following = iter(latents)
        rows = [
            {name: sample[name] for name in IMAGE_SCHEMA.names[:-1]}
            | {"latents": next(following).tobytes() if sample["reason"] is None else None}
            for sample in samples
        ]
        name = self._name([row["image_sha256"] for row in rows])
        Storage(self.url).write_table(name, pa.Table.from_pylist(rows, schema=IMAGE_SCHEMA))

    def _name(self, hashes: Sequence[str]) -> str:
        digest = hashlib.sha256("".join(hashes).encode()).hexdigest()
        return f"{self.key}/{digest[:2]}/{digest}.parquet"
