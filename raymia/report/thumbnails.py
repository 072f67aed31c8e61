"""Small pictures of samples, read back from their shards, as data that a page can hold."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping

from PIL import Image, ImageOps

from raymia.data.images import MAX_PIXELS, ImageError, upright_image
from raymia.data.tar import RawSample, read_shard

THUMBNAIL_PX = 128

Identity = tuple[str, str, str]
"""Split, shard and key of a sample."""


def thumbnails(
    urls: Mapping[tuple[str, str], str], samples: Iterable[Identity], side_px: int = THUMBNAIL_PX
) -> dict[Identity, str]:
    """A JPEG `data:` URI of each sample's image; one whose image is gone or cannot be decoded is left out.

    Args:
        urls: of the shards, by split and shard.
        samples: those that are wanted.
        side_px: of each picture.
    """
    by_shard: dict[tuple[str, str], set[str]] = defaultdict(set)
    for split, shard, key in samples:
        if (split, shard) in urls:  # of a run that somebody else made it need not be
            by_shard[split, shard].add(key)
    pictures: dict[Identity, str] = {}
    for place, keys in by_shard.items():
        for item in read_shard(urls[place], lambda _, key, keys=keys: key in keys):  # type: ignore[misc]
            if (
                isinstance(item, RawSample)
                and item.image is not None
                and (source := thumbnail(item.image, side_px)) is not None
            ):
                pictures[(*place, item.key)] = source
    return pictures


def thumbnail(content: bytes, side_px: int = THUMBNAIL_PX) -> str | None:
    """A JPEG `data:` URI of an image that is not trusted; none where it cannot be decoded."""
    try:
        upright, _ = upright_image(content, MAX_PIXELS)
    except ImageError:
        return None
    buffer = io.BytesIO()
    square = ImageOps.fit(upright, (side_px, side_px), Image.Resampling.LANCZOS)
    square.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
