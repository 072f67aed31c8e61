"""From whatever Pillow decodes to 8-bit RGB: grey of 16 bits, fractions, Lab, CMYK, palettes, and transparency on white."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, TiffImagePlugin

from raymia.data.pillow import guarded

BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262
"""Tags of a TIFF file: bits of a sample, and whether 0 means white."""


@dataclass(frozen=True)
class Reader:
    """How an image's pixels become RGB.

    Attributes:
        read: gives the pixels of the image or of a part of it, by calls of Pillow alone.
        finish: makes of them an array that broadcasts to (height, width, 3), by arithmetic of ours.
    """

    read: Callable[[Image.Image], NDArray[Any]]
    finish: Callable[[NDArray[Any]], NDArray[np.uint8]]


def reader_of(image: Image.Image) -> Reader:
    """How the pixels of a loaded image become RGB, by its mode and what it says of itself.

    Whole numbers of more than 8 bits span 0..65535, and in a TIFF file of 12 bits 0..4095. Fractions span 0..1, or where any
    is larger 0..255. Lab is seen under D50, as in ICC profiles.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _whole_numbers(image)
    if image.mode == "F":
        return _fractions(image)
    if image.mode == "LAB":
        with guarded():
            transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
        return Reader(lambda part: np.asarray(ImageCms.applyTransform(part, transform)), _as_they_are)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return Reader(_on_white, _as_they_are)
    return Reader(lambda part: np.asarray(part if part.mode == "RGB" else part.convert("RGB")), _as_they_are)


def _as_they_are(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    return pixels


def _on_white(part: Image.Image) -> NDArray[Any]:
    rgba = (part.convert("LA") if part.mode == "La" else part).convert("RGBA")
    canvas = Image.new("RGB", rgba.size, "white")
    canvas.paste(rgba, mask=rgba.getchannel("A"))
    return np.asarray(canvas)


def _whole_numbers(image: Image.Image) -> Reader:
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    largest = 4095 if tags.get(BITS_PER_SAMPLE) == (12,) else 65535
    white_is_zero = tags.get(PHOTOMETRIC) == 0
    transparent = image.info.get("transparency")

    def finish(values: NDArray[Any]) -> NDArray[np.uint8]:
        grey = (np.asarray(values, np.float32) / (largest / 255)).round().clip(0, 255).astype(np.uint8)
        if white_is_zero:
            grey = 255 - grey
        if isinstance(transparent, int):
            grey[values == transparent] = 255
        return grey[:, :, None]

    return Reader(np.asarray, finish)


def _fractions(image: Image.Image) -> Reader:
    white_is_zero = isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(PHOTOMETRIC) == 0
    # Of what is not a number nothing is known; it is neither the largest nor shown.
    with guarded():
        values = np.asarray(image)
    scale = 255 if np.nanmax(values, initial=0, where=np.isfinite(values)) <= 1 else 1

    def finish(values: NDArray[Any]) -> NDArray[np.uint8]:
        grey = (np.nan_to_num(values, nan=0.0, posinf=np.inf, neginf=0.0) * np.float32(scale)).round().clip(0, 255)
        shown: NDArray[np.uint8] = (255 - grey if white_is_zero else grey).astype(np.uint8)[:, :, None]
        return shown

    return Reader(np.asarray, finish)
