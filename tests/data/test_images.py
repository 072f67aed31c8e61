from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from raymia.data.images import ImageError, decode_image
from tests.conftest import image_bytes


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "RGB"])
def test_every_png_mode_becomes_rgb(mode: str) -> None:
    assert decode_image(image_bytes(1, "PNG", mode=mode), 32, 10**6).pixels.shape == (32, 32, 3)


def test_a_cmyk_jpeg_keeps_its_colour() -> None:
    red = encode(Image.new("RGB", (40, 40), (200, 30, 30)).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decode_image(red, 16, 10**6).pixels.astype(int) - [200, 30, 30]).max() < 20


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    ramp = Image.fromarray(np.full((32, 32), 32896, np.uint16))
    assert decode_image(encode(ramp), 16, 10**6).pixels[0, 0].tolist() == [128, 128, 128]


def test_transparency_is_composited_on_white() -> None:
    assert decode_image(encode(Image.new("RGBA", (20, 20), (0, 0, 0, 0))), 16, 10**6).pixels.min() == 255


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (60, 30), "white")
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode_image(encode(image, "JPEG", exif=exif), 16, 10**6)
    assert (decoded.width, decoded.height) == (30, 60)


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    content = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert decode_image(content, 16, 10**6).pixels[8, 8].tolist() == [255, 0, 0]


def test_the_centre_square_is_what_is_kept() -> None:
    pixels = np.zeros((30, 90, 3), np.uint8)
    pixels[:, 30:60] = 255
    assert decode_image(encode(Image.fromarray(pixels)), 30, 10**6).pixels.min() == 255


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty_image"),
        (b"GIF89a" + b"\0" * 50, "unknown_format"),
        (image_bytes(1)[:400], "corrupt_image"),
        (image_bytes(1, "PNG")[:2000], "corrupt_image"),
        (bomb_header(60000, 60000), "too_many_pixels"),
        (bomb_header(9000, 9000), "too_many_pixels"),
    ],
)
def test_a_bad_image_is_refused_with_its_reason(content: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(content, 64, 64_000_000)
    assert caught.value.reason == reason


@pytest.mark.parametrize("size", [(90, 61), (61, 90), (40, 33), (640, 479), (64, 64)])
def test_resizing_is_pillows_lanczos_to_within_a_rounding(size: tuple[int, int]) -> None:
    side, lanczos = 64, Image.Resampling.LANCZOS
    image = Image.open(io.BytesIO(image_bytes(3, "PNG", size=size))).convert("RGB")
    width, height = (side / min(size) * length for length in size)
    left, top = (round(width) - side) // 2, (round(height) - side) // 2
    box = (left * min(size) / side, 0, (left + side) * min(size) / side, image.height)
    across = image.resize((side, image.height), lanczos, box=box)
    expected = across.resize((side, side), lanczos, box=(0, top * min(size) / side, side, (top + side) * min(size) / side))
    difference = np.abs(np.asarray(expected, int) - decode_image(encode(image), side, 10**6).pixels)
    assert difference.max() <= 2
    assert difference.mean() < 0.02


def test_of_a_very_long_image_the_middle_is_kept() -> None:
    pixels = np.zeros((4, 60_001, 3), np.uint8)
    pixels[:, 30_000 - 6 : 30_000 + 7] = 255
    assert decode_image(encode(Image.fromarray(pixels)), 64, 10**6).pixels.min() > 250
