from __future__ import annotations

import dataclasses
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raymia.data import formats, images
from raymia.data.images import MAX_SIDE_PX, ImageError, decode_image, prepare_image, upright_image
from tests.conftest import image_bytes
from tests.data.image_files import chunk, encode, exif, noise


def bomb_header(width: int, height: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b""))


def shown(content: bytes, max_pixels: int = 10**6) -> np.ndarray:
    return np.asarray(upright_image(content, max_pixels)[0])


def refusal(content: bytes, max_pixels: int = 64_000_000) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_image(content, 64, max_pixels)
    return caught.value


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "RGB"])
def test_every_png_mode_becomes_rgb(mode: str) -> None:
    assert decode_image(image_bytes(1, "PNG", mode=mode), 32, 10**6).pixels.shape == (32, 32, 3)


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (60, 30), "white")
    decoded = decode_image(encode(image, "JPEG", exif=exif(6)), 16, 10**6)
    assert (decoded.width, decoded.height) == (30, 60)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_is_pillows_and_of_a_long_image_the_same_middle_is_kept(orientation: int) -> None:
    image = noise(3, (300, 31))
    content = encode(image, "PNG", exif=exif(orientation))
    methods = [None, *(Image.Transpose(number) for number in (0, 3, 1, 5, 4, 6, 2))]
    method = methods[orientation - 1]
    upright = image if method is None else image.transpose(method)
    assert np.array_equal(shown(content), np.asarray(upright))
    plain = decode_image(encode(upright), 31, 10**6)
    turned = decode_image(content, 31, 10**6)
    assert (turned.width, turned.height) == upright.size == (plain.width, plain.height)
    assert np.array_equal(turned.pixels, plain.pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_an_image_of_a_single_row_or_column_is_turned_too(orientation: int, size: tuple[int, int]) -> None:
    turned = decode_image(encode(noise(4, size), "PNG", exif=exif(orientation)), 8, 10**6)
    assert turned.pixels.shape == (8, 8, 3)
    assert (turned.width, turned.height) == (size if orientation < 5 else size[::-1])


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "PNG", "AVIF", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(content)).n_frames == 2
    assert np.abs(decode_image(content, 16, 10**6).pixels[8, 8] - np.array([255, 0, 0])).max() <= 3


def test_the_centre_square_is_what_is_kept() -> None:
    pixels = np.zeros((30, 90, 3), np.uint8)
    pixels[:, 30:60] = 255
    assert decode_image(encode(Image.fromarray(pixels)), 30, 10**6).pixels.min() == 255


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty_image"),
        (b"GIF89a" + b"\0" * 50, "corrupt_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unknown_format"),
        (image_bytes(1)[:400], "corrupt_image"),
        (image_bytes(1, "PNG")[:2000], "corrupt_image"),
        (bomb_header(60000, 60000), "too_many_pixels"),
        (bomb_header(9000, 9000), "too_many_pixels"),
    ],
)
def test_a_bad_image_is_refused_with_its_reason(content: bytes, reason: str) -> None:
    assert refusal(content).reason == reason


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


def test_an_image_that_is_read_strip_by_strip_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(noise(5, (64, 48)).convert("P"), "PNG", transparency=7)
    whole = shown(content)
    monkeypatch.setattr(images, "STRIP_PIXELS", 5 * 64 + 1)
    assert np.array_equal(shown(content), whole)


@pytest.mark.parametrize(
    "error", [MemoryError(), RecursionError("deep"), struct.error("range"), SyntaxError("bad"), KeyError(1)]
)
@pytest.mark.parametrize("where", ["opening", "decoding", "converting"])
def test_whatever_goes_wrong_in_pillow_is_one_error(monkeypatch: pytest.MonkeyPatch, where: str, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    content = encode(noise(), "JPEG")
    if where == "opening":
        kinds = tuple(dataclasses.replace(kind, opener=fail) for kind in formats.FORMATS)
        monkeypatch.setattr(formats, "FORMATS", kinds)
    elif where == "decoding":
        monkeypatch.setattr(Image.Image, "load", fail)
    else:
        content = encode(noise().convert("L"), "JPEG")
        monkeypatch.setattr(Image.Image, "convert", fail)
    found = refusal(content)
    assert found.reason == "corrupt_image"
    assert type(error).__name__ in found.detail


def test_a_fault_of_our_own_is_no_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_fitted", lambda *_: {}["no such thing"])
    with pytest.raises(KeyError):
        decode_image(encode(noise()), 16, 10**6)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF", "BMP"])
def test_a_jobs_bound_on_pixels_holds_where_it_is_above_pillows_own(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    content = encode(noise(1, (400, 20)).convert("P"), kind)
    assert decode_image(content, 16, 8000).width == 400
    assert refusal(content, 7999).reason == "too_many_pixels"


@pytest.mark.parametrize("size", [(1, 64_000_000), (64_000_000, 1), (MAX_SIDE_PX + 1, 2), (3, MAX_SIDE_PX + 1)])
def test_an_image_with_a_side_beyond_measure_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    found = refusal(bomb_header(*size))
    assert found.reason == "too_many_pixels"
    assert str(MAX_SIDE_PX) in found.detail


@pytest.mark.parametrize("shape", ["RGBA 2400 2400", "I;16 2400 2400", "L 9 700000"])
def test_memory_is_a_small_multiple_of_the_pixels(shape: str, tmp_path: Path) -> None:
    script = """
import io, resource, sys
from PIL import Image
from raymia.data.images import upright_image
def peak(): return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
mode, width, height = sys.argv[1].split()
def file(*size):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()
upright_image(file(8, 8), 100)
pid = __import__("os").fork()
content = file(int(width), int(height)) if pid == 0 else b""
if pid == 0:
    open(sys.argv[2], "wb").write(content)
    __import__("os")._exit(0)
__import__("os").waitpid(pid, 0)
content = open(sys.argv[2], "rb").read()
before = peak()
upright_image(content, 10**8)
print((peak() - before) / (int(width) * int(height)))
"""
    command = [sys.executable, "-c", script, shape, str(tmp_path / "image.png")]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    assert float(found.stdout) < 16


def test_a_picture_with_broken_exif_that_is_open_already_is_prepared_without_it() -> None:
    image = noise()
    image.info["exif"] = b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 40
    assert prepare_image(image, 16).pixels.shape == (16, 16, 3)


def test_a_checksum_that_is_wrong_is_named() -> None:
    content = bytearray(encode(noise()))
    content[29] ^= 1
    assert refusal(bytes(content)).detail == "wrong checksum of chunk IHDR at byte 8"
    assert refusal(content[:33] + chunk(b"IDAT", b"x", wrong=True)).reason == "corrupt_image"
