"""Untrusted image bytes to upright RGB arrays of one size, or a stated reason why not."""

from __future__ import annotations

import hashlib
import io
import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from raymia.data.colours import reader_of
from raymia.data.formats import EXTENSIONS as EXTENSIONS
from raymia.data.formats import FORMATS, ImageFormat, format_of
from raymia.data.pillow import ImageError as ImageError
from raymia.data.pillow import guarded
from raymia.data.shapes import Shapes, Size, crop_corner, square
from raymia.data.tiff import ORIENTATION, orientation_in

MAX_PIXELS = 64_000_000
"""An image whose header announces more is not decoded, unless a job says otherwise."""
MAX_SIDE_PX = 1_000_000
"""An image with a longer side is not decoded: each row costs memory besides its pixels."""
MAX_ASPECT = 4
"""An image longer than this many times its shorter side is cut to the middle of that length before it is resized."""
STRIP_PIXELS = 2**20
"""Pixels that are converted to RGB at a time, so that a large image is not held several times over."""
UPRIGHT = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
"""What makes a picture upright, by EXIF's orientation: whether rows become columns, and then, whether rows and whether columns
are put in reverse order."""


@dataclass(frozen=True)
class DecodedImage:
    """An image ready for a replica, with the facts about its file that evaluation needs."""

    pixels: NDArray[np.uint8]
    """(height, width, 3), upright RGB, of the size that the image was resized to."""
    width: int
    """Upright width of the original in pixels."""
    height: int
    """Upright height of the original in pixels."""
    sha256: str
    """Digest of the image file's bytes."""
    extension: str
    """Ending that fits the file's format, whatever its name says, such as ``jpg``; empty without a file."""


def decode_image(content: bytes, shapes: int | Shapes, max_pixels: int) -> DecodedImage:
    """Decode the first frame to upright RGB, resize it (Lanczos) until it covers a size, and crop the centre.

    Transparency is composited on white; 16-bit samples are scaled to 8 bits; EXIF orientation is applied. Whatever else stands
    in the file beside its first picture is not looked at.

    Args:
        content: a file of one of `raymia.data.formats.FORMATS`.
        shapes: sizes of which the nearest to the image's is taken; or the side of a square.
        max_pixels: a header that announces more pixels is refused before anything is decoded.

    Raises:
        ImageError: the image cannot be scored, with its reason.
    """
    image, kind, orientation = _open(content, max_pixels)
    with image:
        width, height = reversed(image.size) if UPRIGHT[orientation][0] else image.size
        pixels = _fitted(_upright(image, orientation, middle=True), _nearest(shapes, height, width))
    return DecodedImage(pixels, width, height, hashlib.sha256(content).hexdigest(), kind.endings[0])


def prepare_image(image: Image.Image, shapes: int | Shapes) -> DecodedImage:
    """Make a picture that is open already upright RGB, resize it and crop the centre; see `decode_image`.

    Args:
        image: a picture of any of Pillow's modes.
        shapes: see `decode_image`.

    Returns:
        The image; its sha256 is that of its upright pixels, and its extension is empty.

    Raises:
        ImageError: the picture cannot be converted.
    """
    with guarded():
        image.load()
    try:
        with guarded():
            found = image.getexif().get(ORIENTATION, 1)
    except ImageError:
        # Pixels are fine without what the file says of them.
        found = 1
    upright = _upright(image, found if found in UPRIGHT else 1, middle=False)
    height, width = upright.shape[:2]
    pixels = _fitted(_middle(upright), _nearest(shapes, height, width))
    return DecodedImage(pixels, width, height, hashlib.sha256(upright.tobytes()).hexdigest(), "")


def upright_image(content: bytes, max_pixels: int) -> tuple[Image.Image, str]:
    """Decode the first frame to upright RGB at its own size; return it with the extension of its format.

    Args:
        content: a file of one of `raymia.data.formats.FORMATS`.
        max_pixels: a header that announces more pixels is refused before anything is decoded.

    Raises:
        ImageError: the image cannot be used, with its reason.
    """
    image, kind, orientation = _open(content, max_pixels)
    with image:
        return Image.fromarray(_upright(image, orientation, middle=False)), kind.endings[0]


def shown_and_stored(content: bytes, max_pixels: int) -> tuple[Image.Image, ...]:
    """The picture that `upright_image` gives and, where EXIF turns it, that of the pixels as they stand in the file.

    Args:
        content, max_pixels: see `upright_image`.

    Raises:
        ImageError: the image cannot be used, with its reason.
    """
    image, _, orientation = _open(content, max_pixels)
    with image:
        return tuple(Image.fromarray(_upright(image, turn, middle=False)) for turn in dict.fromkeys((orientation, 1)))


def _open(content: bytes, max_pixels: int) -> tuple[ImageFile.ImageFile, ImageFormat, int]:
    """An image file whose header is read, its format and EXIF's orientation."""
    if not content:
        raise ImageError("empty_image", "the image has 0 bytes")
    kind = format_of(content)
    if kind is None:
        raise ImageError("unknown_format", f"begins like none of {', '.join(known.name for known in FORMATS)}")
    stripped = kind.strip(content)
    for size in stripped.announced:
        _check_size(size, max_pixels)
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        # Pillow's own bound would hold against ours. It only ever grows, so that threads cannot disturb each other.
        Image.MAX_IMAGE_PIXELS = max_pixels
    with guarded():
        image = kind.opener(io.BytesIO(stripped.content))
        exif, xmp = image.info.get("exif", b""), image.info.get("xmp", b"")
    _check_size(image.size, max_pixels)
    return image, kind, _orientation(stripped.exif or exif, stripped.xmp or xmp)


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    announced = f"the header announces {width} x {height} px"
    if width * height > max_pixels:
        raise ImageError("too_many_pixels", f"{announced}, more than max_pixels {max_pixels}")
    if max(size) > MAX_SIDE_PX:
        raise ImageError("too_many_pixels", f"{announced}, and no side may be longer than {MAX_SIDE_PX}")


def _orientation(exif: bytes, xmp: bytes) -> int:
    """EXIF's orientation, or what an XMP packet says of it; 1 where neither can be read."""
    found = orientation_in(exif.removeprefix(b"Exif\0\0"))
    if found is None and (said := re.search(rb'tiff:Orientation(="|>)([0-9])', xmp)):
        found = int(said[2])
    return found if found in UPRIGHT else 1


def _upright(image: Image.Image, orientation: int, middle: bool) -> NDArray[np.uint8]:
    """(height, width, 3) upright RGB of an image; of a very long one, where that is enough, the middle alone."""
    swapped, rows_back, columns_back = UPRIGHT[orientation]
    limit = MAX_ASPECT * min(image.size) if middle else max(image.size)
    width, height = (min(side, limit) for side in image.size)
    # Where the odd pixel is cut off is decided in the upright picture.
    left = (image.width - width + (rows_back if swapped else columns_back)) // 2
    top = (image.height - height + (columns_back if swapped else rows_back)) // 2
    pixels = _rgb(image, (left, top, left + width, top + height))
    if swapped:
        pixels = pixels.transpose(1, 0, 2)
    return np.ascontiguousarray(pixels[:: -1 if rows_back else 1, :: -1 if columns_back else 1])


def _rgb(image: Image.Image, box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """(height, width, 3) RGB of a box, as the file holds it, strip by strip."""
    left, top, right, bottom = box
    with guarded():
        image.load()
        pixels = np.empty((bottom - top, right - left, 3), np.uint8)
    reader = reader_of(image)
    step = max(1, STRIP_PIXELS // (right - left))
    for start in range(top, bottom, step):
        end = min(start + step, bottom)
        with guarded():
            whole = (left, start, right, end) == (0, 0, *image.size)
            strip = reader.read(image if whole else image.crop((left, start, right, end)))
        pixels[start - top : end - top] = reader.finish(strip)
    return pixels


def _middle(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    limit = MAX_ASPECT * min(height, width)
    top, left = ((side - min(side, limit)) // 2 for side in (height, width))
    return np.ascontiguousarray(pixels[top : top + limit, left : left + limit])


def _nearest(shapes: int | Shapes, height: int, width: int) -> Size:
    return (square(shapes) if isinstance(shapes, int) else shapes).nearest(height, width)


def _fitted(pixels: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    # Reading and reporting need the rest of this module, and not torch.
    import torch
    from torch.nn.functional import interpolate

    height, width = pixels.shape[:2]
    scale = max(size[0] / height, size[1] / width)
    # A step up, lest rounding leave a side a pixel short.
    factor = math.nextafter(scale, math.inf)
    # torch takes no view that runs backwards, be it over a single column.
    forwards = pixels if min(pixels.strides) > 0 else pixels.copy()
    batch = torch.from_numpy(forwards).permute(2, 0, 1)[None]
    # Pillow's Lanczos filter to within a rounding of 8-bit values, several times as fast.
    resized = interpolate(batch, scale_factor=(factor, factor), mode="lanczos", antialias=True)[0].permute(1, 2, 0)
    top, left = crop_corner((height, width), size)
    cropped: NDArray[np.uint8] = resized[top : top + size[0], left : left + size[1]].contiguous().numpy()
    return cropped
