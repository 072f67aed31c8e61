from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from raymia.data.formats import EXTENSIONS, FORMATS, format_of
from raymia.data.images import decode_image, upright_image
from tests.data.image_files import encode, noise

SAVED = {
    "JPEG": ("JPEG", {"quality": 100, "subsampling": 0}, 12),
    "PNG": ("PNG", {}, 0),
    "WebP": ("WEBP", {"lossless": True}, 0),
    "GIF": ("GIF", {}, 0),
    "TIFF": ("TIFF", {"compression": "tiff_lzw"}, 0),
    "BMP": ("BMP", {}, 0),
    "AVIF": ("AVIF", {"quality": 100, "subsampling": "4:4:4"}, 4),
    "JPEG 2000": ("JPEG2000", {}, 0),
}


@pytest.mark.parametrize("name", [kind.name for kind in FORMATS])
def test_every_format_is_known_by_its_content_and_decoded(name: str) -> None:
    kind, options, tolerance = SAVED[name]
    image = noise(4, (40, 32))
    if name == "GIF":
        image = image.convert("P", palette=Image.Palette.ADAPTIVE)
    content = encode(image, kind, **options)
    found = format_of(content)
    assert found is not None
    assert found.name == name
    pixels, ending = upright_image(content, 10**6)
    assert ending == found.endings[0]
    assert np.abs(np.asarray(pixels, int) - np.asarray(image.convert("RGB"), int)).max() <= tolerance
    assert decode_image(content, 16, 10**6).extension == ending


@pytest.mark.parametrize("options", [{"no_jp2": True}, {"tile_size": (16, 16)}, {"irreversible": True}])
def test_jpeg_2000_without_its_box_and_in_tiles(options: dict[str, object]) -> None:
    image = noise(4, (40, 32))
    found = np.asarray(upright_image(encode(image, "JPEG2000", **options), 10**6)[0], int)
    assert np.abs(found - np.asarray(image, int)).max() <= 3


@pytest.mark.parametrize("compression", ["raw", "tiff_deflate", "packbits", "jpeg", "tiff_adobe_deflate"])
def test_tiff_of_each_compression(compression: str) -> None:
    image = Image.linear_gradient("L").resize((40, 32)).convert("RGB")
    found = np.asarray(upright_image(encode(image, "TIFF", compression=compression), 10**6)[0], int)
    assert np.abs(found - np.asarray(image, int)).max() <= (8 if compression == "jpeg" else 0)


def test_a_big_tiff_is_read() -> None:
    image = noise()
    content = encode(image, "TIFF", big_tiff=True)
    assert content[2] == 43
    assert np.array_equal(np.asarray(upright_image(content, 10**6)[0]), np.asarray(image))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"BMW is a make of cars, and no picture",
        b"RIFF\x10\0\0\0WAVEfmt ",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"%PDF-1.7",
        b"<!DOCTYPE html>",
        b"GIF",
        b"II*",
    ],
)
def test_what_is_none_of_these_is_known_as_none(content: bytes) -> None:
    assert format_of(content) is None


def test_endings_stand_once_each_and_in_lower_case() -> None:
    assert len(set(EXTENSIONS)) == len(EXTENSIONS)
    assert all(ending == ending.lower() and "." not in ending for ending in EXTENSIONS)
    assert {"jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "tif", "tiff", "bmp", "avif", "jp2"} <= set(EXTENSIONS)
