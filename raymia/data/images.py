"""Untrusted image bytes to upright RGB arrays of one size, or a stated reason why not."""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
"""Formats that are read, by Pillow's name, with the extension of each."""
EXTENSIONS = ("jpg", "jpeg", "png", "webp")
"""Extensions of the files in a shard that are taken for images."""
MAX_PIXELS = 64_000_000
"""An image whose header announces more is not decoded, unless a job says otherwise."""
MAX_ASPECT = 4
"""An image longer than this many times its shorter side is cut to the middle of that length before it is resized."""
# Decoders report damage in many ways; each of these, raised while one image is decoded, means that image is bad.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError, MemoryError)


class ImageError(Exception):
    """An image that cannot be scored.

    Attributes:
        reason: one of ``empty_image``, ``unknown_format``, ``too_many_pixels``, ``corrupt_image``.
        detail: what was found and what was expected.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Make the error; `reason` and `detail` are kept as attributes."""
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
    """Digest of the image file's bytes."""
    extension: str
    """Extension that fits the file's format, whatever its name says: ``jpg``, ``png`` or ``webp``; empty without a file."""


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
        pixels = _square(upright, resolution_px)
    except DECODE_ERRORS as error:
        raise ImageError("corrupt_image", f"{type(error).__name__}: {error}") from error
    digest = hashlib.sha256(content).hexdigest()
    return DecodedImage(pixels, upright.width, upright.height, digest, extension)


def prepare_image(image: Image.Image, resolution_px: int) -> DecodedImage:
    """Make a picture that is open already upright RGB, resize its shorter side and crop the centre square; see `decode_image`.

    Args:
        image: a picture of any of Pillow's modes.
        resolution_px: side of the square result.

    Returns:
        The image; its sha256 is that of its upright pixels, and its extension is empty.

    Raises:
        ImageError: the picture cannot be converted.
    """
    try:
        upright = _upright_rgb(image)
        pixels = _square(upright, resolution_px)
    except DECODE_ERRORS as error:
        raise ImageError("corrupt_image", f"{type(error).__name__}: {error}") from error
    return DecodedImage(pixels, upright.width, upright.height, hashlib.sha256(upright.tobytes()).hexdigest(), "")


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


def _square(image: Image.Image, resolution_px: int) -> NDArray[np.uint8]:
    # Reading and reporting need the rest of this module, and not torch.
    import torch
    from torch.nn.functional import interpolate

    pixels = np.array(_middle(image))
    height, width = pixels.shape[:2]
    scale = resolution_px / min(height, width)
    # A step up, lest rounding leave the shorter side a pixel short.
    factor = math.nextafter(scale, math.inf)
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    # Pillow's Lanczos filter to within a rounding of 8-bit values, several times as fast.
    resized = interpolate(batch, scale_factor=(factor, factor), mode="lanczos", antialias=True)[0].permute(1, 2, 0)
    top, left = ((max(resolution_px, round(side * scale)) - resolution_px) // 2 for side in (height, width))
    cropped: NDArray[np.uint8] = resized[top : top + resolution_px, left : left + resolution_px].contiguous().numpy()
    return cropped


def _middle(image: Image.Image) -> Image.Image:
    limit = MAX_ASPECT * min(image.size)
    width, height = (min(side, limit) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image if (width, height) == image.size else image.crop((left, top, left + width, top + height))
