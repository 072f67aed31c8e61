"""Untrusted image bytes to upright RGB arrays of one size, or a stated reason why not."""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
"""Formats that are read, with the extension of each."""
EXTENSIONS = ("jpg", "jpeg", "png", "webp")
MAX_PIXELS = 64_000_000
"""An image whose header announces more is not decoded, unless a job says otherwise."""
# Decoders report damage in many ways; each of these, raised while one image is decoded, means that image is bad.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError, MemoryError)


class ImageError(Exception):
    """An image that cannot be scored.

    Attributes:
        reason: one of ``empty_image``, ``unknown_format``, ``too_many_pixels``, ``corrupt_image``.
        detail: what was found and what was expected.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class DecodedImage:
    """An image ready for a replica, with the facts about its file that evaluation needs."""

    pixels: NDArray[np.uint8]
    """(resolution, resolution, 3), upright RGB."""
    width: int
    """Upright width of the original in pixels."""
    height: int
    """Upright height of the original in pixels."""
    sha256: str
    """Of the image file's bytes."""
    extension: str
    """Of the image file's format, whatever its name says: ``jpg``, ``png`` or ``webp``."""


def decode_image(content: bytes, resolution_px: int, max_pixels: int) -> DecodedImage:
    """Decode the first frame to upright RGB, resize the shorter side (Lanczos) and crop the centre square.

    Transparency is composited on white; 16-bit samples are scaled to 8 bits; EXIF orientation is applied.

    Args:
        content: a JPEG, PNG or WebP file.
        resolution_px: side of the square result.
        max_pixels: a header that announces more pixels is refused before anything is decoded.

    Raises:
        ImageError: the image cannot be scored, with its reason.
    """
    upright, extension = upright_image(content, max_pixels)
    try:
        pixels = np.array(_square(upright, resolution_px))
    except DECODE_ERRORS as error:
        raise ImageError("corrupt_image", f"{type(error).__name__}: {error}") from error
    digest = hashlib.sha256(content).hexdigest()
    return DecodedImage(pixels, upright.width, upright.height, digest, extension)


def upright_image(content: bytes, max_pixels: int) -> tuple[Image.Image, str]:
    """Decode the first frame to upright RGB at its own size; return it with the extension of its format.

    Args:
        content: a JPEG, PNG or WebP file.
        max_pixels: a header that announces more pixels is refused before anything is decoded.

    Raises:
        ImageError: the image cannot be used, with its reason.
    """
    if not content:
        raise ImageError("empty_image", "the image has 0 bytes")
    with warnings.catch_warnings():
        # The pixel bound is ours and is checked on the header below; Pillow's own warning would only repeat it.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(content), formats=tuple(FORMATS))
        except Image.DecompressionBombError as error:
            raise ImageError("too_many_pixels", f"{error}; max_pixels is {max_pixels}") from error
        except UnidentifiedImageError as error:
            raise ImageError("unknown_format", f"not a readable {', '.join(FORMATS)} header") from error
        except DECODE_ERRORS as error:
            raise ImageError("corrupt_image", f"header: {error}") from error
        with image:
            if image.width * image.height > max_pixels:
                size = f"{image.width} x {image.height} px"
                raise ImageError("too_many_pixels", f"the header announces {size}, more than max_pixels {max_pixels}")
            try:
                return _upright_rgb(image), FORMATS[str(image.format)]
            except DECODE_ERRORS as error:
                raise ImageError("corrupt_image", f"{type(error).__name__}: {error}") from error


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        # Pillow clips these modes at 255 when it converts them; PNG's 16-bit grey spans 0..65535.
        grey = np.asarray(upright, np.float32) / 257.0
        return Image.fromarray(grey.round().clip(0, 255).astype(np.uint8), "L").convert("RGB")
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        rgba = upright.convert("RGBA")
        canvas = Image.new("RGB", rgba.size, "white")
        canvas.paste(rgba, mask=rgba.getchannel("A"))
        return canvas
    return upright.convert("RGB")


def _square(image: Image.Image, resolution_px: int) -> Image.Image:
    scale = resolution_px / min(image.size)
    width, height = (max(resolution_px, round(side * scale)) for side in image.size)
    left, top = (width - resolution_px) // 2, (height - resolution_px) // 2
    # Lanczos over the box that ends up in the square: a very long image never exists at full length.
    box = tuple(edge / scale for edge in (left, top, left + resolution_px, top + resolution_px))
    limits = (image.width, image.height, image.width, image.height)
    clipped = tuple(min(max(edge, 0.0), float(limit)) for edge, limit in zip(box, limits, strict=True))
    return image.resize((resolution_px, resolution_px), Image.Resampling.LANCZOS, box=clipped)  # type: ignore[arg-type]
