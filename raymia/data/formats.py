"""The formats of image files that are read: one list for tars, folders and tables. Content decides, and not a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from raymia.data.stripping import Stripped, as_it_is, strip_avif, strip_gif, strip_jpeg, strip_png, strip_tiff
from raymia.data.tiff import PREFIXES

BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
"""Sizes of the header that says what kind of BMP a file is."""


@dataclass(frozen=True)
class ImageFormat:
    """A format of image files.

    Attributes:
        name: as people write it.
        endings: of the names of its files, in lower case; the first is given to files that are written.
        begins: whether a file that begins with these 256 bytes has the format.
        strip: takes out of a file all but its first picture.
        opener: Pillow's reader of the format, called by itself, so that Pillow guesses nothing.
    """

    name: str
    endings: tuple[str, ...]
    begins: Callable[[bytes], bool]
    strip: Callable[[bytes], Stripped]
    opener: Callable[[BinaryIO], ImageFile]


def _is_bmp(start: bytes) -> bool:
    return start.startswith(b"BM") and int.from_bytes(start[14:18], "little") in BMP_HEADERS


def _is_webp(start: bytes) -> bool:
    return start.startswith(b"RIFF") and start[8:12] == b"WEBP"


def _is_avif(start: bytes) -> bool:
    # The brands that the file says it is compatible with stand in its first box; HEIC's are not these.
    brands = start[8 : max(16, int.from_bytes(start[:4]))]
    return start[4:8] == b"ftyp" and (b"avif" in brands or b"avis" in brands)


def _starts(*prefixes: bytes) -> Callable[[bytes], bool]:
    return lambda start: start.startswith(prefixes)


FORMATS = (
    # A camera's second picture (MPO) is not read, so that its files are JPEG like others.
    ImageFormat("JPEG", ("jpg", "jpeg", "jpe", "jfif", "mpo"), _starts(b"\xff\xd8\xff"), strip_jpeg, JpegImageFile),
    ImageFormat("PNG", ("png", "apng"), _starts(b"\x89PNG\r\n\x1a\n"), strip_png, PngImageFile),
    ImageFormat("WebP", ("webp",), _is_webp, as_it_is, WebPImageFile),
    ImageFormat("GIF", ("gif",), _starts(b"GIF87a", b"GIF89a"), strip_gif, GifImageFile),
    ImageFormat("TIFF", ("tif", "tiff"), _starts(*PREFIXES), strip_tiff, TiffImageFile),
    ImageFormat("BMP", ("bmp", "dib"), _is_bmp, as_it_is, BmpImageFile),
    ImageFormat("AVIF", ("avif", "avifs"), _is_avif, strip_avif, AvifImageFile),
    ImageFormat(
        "JPEG 2000",
        ("jp2", "j2k", "j2c", "jpc", "jpf", "jpx"),
        _starts(b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  \r\n\x87\n"),
        as_it_is,
        Jpeg2KImageFile,
    ),
)
EXTENSIONS = tuple(ending for kind in FORMATS for ending in kind.endings)
"""Endings of the names of files that are taken for images, in lower case and without dot."""


def format_of(content: bytes) -> ImageFormat | None:
    """The format of an image file, by its content; none where it is none of these."""
    start = content[:256]
    return next((kind for kind in FORMATS if kind.begins(start)), None)
