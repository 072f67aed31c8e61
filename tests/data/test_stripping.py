from __future__ import annotations

import io
import random
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from raymia.data import stripping
from raymia.data.formats import FORMATS
from raymia.data.images import ImageError, decode_image, upright_image
from tests.data.image_files import (
    BROKEN_RATIONAL,
    chunk,
    encode,
    exif,
    noise,
    png,
    tiff,
    tiff_tags,
    with_chunk,
    with_segment,
)

ANYWHERE = struct.pack("<HHII", 0x8769, 4, 1, 0xFFFFFFF0)
"""An entry of EXIF that points beyond the file."""


def shown(content: bytes) -> np.ndarray:
    return np.asarray(upright_image(content, 10**6)[0])


def with_exif(image: Image.Image, kind: str, block: bytes) -> bytes:
    """A file with an EXIF block as it is; Pillow would mend it on its way into an AVIF file."""
    if kind != "AVIF":
        return encode(image, kind, exif=block, **({"lossless": True} if kind == "WEBP" else {}))
    described = Image.Exif()
    described[0x010E] = "x" * len(block)
    content = encode(image, kind, exif=described)
    start, end = content.index(b"MM\0*"), content.index(b"x" * len(block)) + len(block)
    return content[:start] + block[6:].ljust(end - start, b"\0") + content[end:]


def refusal(content: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_image(content, 16, 10**6)
    return caught.value


@pytest.mark.parametrize("entry", [BROKEN_RATIONAL, ANYWHERE, b"\xff" * 12])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_an_image_with_broken_exif_is_scored_without_it_and_still_upright(kind: str, entry: bytes) -> None:
    image = noise(2, (40, 24))
    plain = shown(encode(image, kind, **({"lossless": True} if kind == "WEBP" else {})))
    content = with_exif(image, kind, exif(1, entry))
    assert entry in content
    assert np.array_equal(shown(content), plain)
    # In AVIF another part of the file says it, and EXIF is not to be asked.
    turned = plain if kind == "AVIF" else np.rot90(plain, -1)
    assert np.array_equal(shown(with_exif(image, kind, exif(6, entry))), turned)


@pytest.mark.parametrize("said", [0, 9, 65535])
def test_an_orientation_that_there_is_not_turns_nothing(said: int) -> None:
    image = noise()
    assert np.array_equal(shown(encode(image, exif=exif(said))), np.asarray(image))


@pytest.mark.parametrize(
    ("marker", "data"),
    [
        (0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04"),
        (0xE2, b"ICC_PROFILE\0\x01"),
        (0xE2, b"MPF\0MM\0*\xff\xff\xff\xff"),
        (0xE2, b"MPF\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0xB001, 4, 1, 2)),
        (0xE0, b"JFIF"),
        (0xEE, b"Adobe"),
        (0xE1, b"Exif\0\0" + b"\xff" * 3),
        (0xFE, b""),
    ],
)
def test_no_broken_segment_beside_the_pixels_costs_a_jpeg(marker: int, data: bytes) -> None:
    content = encode(noise(), "JPEG")
    assert np.array_equal(shown(with_segment(content, marker, data)), shown(content))


def test_adobes_segment_which_names_the_colour_space_is_kept() -> None:
    content = encode(noise().convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in content
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.array_equal(shown(with_segment(content, 0xEC, b"Ducky")), expected)


def test_of_a_cameras_two_pictures_the_first_is_taken() -> None:
    first, second = Image.new("RGB", (32, 24), "red"), Image.new("RGB", (64, 48), "blue")
    content = encode(first, "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(content)).format == "MPO"
    decoded = decode_image(content, 16, 10**6)
    assert (decoded.width, decoded.extension) == (32, "jpg")
    assert np.array_equal(shown(content), shown(encode(first, "JPEG")))
    # A second picture that is cut off is nothing to the first.
    assert np.array_equal(shown(content[: content.rindex(b"\xff\xd8\xff") + 30]), shown(content))


def test_a_jpeg_of_endless_passes_is_refused() -> None:
    content = encode(noise(), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    assert shown(content[:-2] + 20 * last + b"\xff\xd9").shape == (32, 40, 3)
    assert "scans" in refusal(content[:-2] + 300 * last + b"\xff\xd9").detail


def test_a_film_behind_a_picture_as_phones_write_it_is_nothing_to_it() -> None:
    content = encode(noise(), "JPEG", progressive=True)
    film = random.Random(1).randbytes(10_000) + 1000 * b"\xff\xda\0\x08film"  # noqa: S311 - any bytes do
    assert np.array_equal(shown(content + film), shown(content))


LARGE = zlib.compress(bytes(2**21))
TEXTS = {
    "iCCP": b"icc\0\0" + LARGE,
    "zTXt": b"Comment\0\0" + LARGE,
    "iTXt": b"Comment\0\x01\0en\0\0" + LARGE,
    "tEXt": b"Comment\0" + b"x" * 2**21,
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("count", [1, 70])
def test_large_texts_and_profiles_do_not_cost_a_png(name: str, count: int) -> None:
    image = noise()
    content = with_chunk(encode(image), *[chunk(name.encode(), TEXTS[name])] * (count if name != "tEXt" else 1))
    assert np.array_equal(shown(content), np.asarray(image))


@pytest.mark.parametrize("name", ["tEXt", "gAMA", "cHRM", "pHYs", "sRGB", "iCCP", "eXIf", "acTL", "fcTL", "tIME", "xxXx"])
def test_no_broken_chunk_beside_the_pixels_costs_a_png(name: str) -> None:
    image = noise()
    for wrong in (True, False):
        content = with_chunk(encode(image), chunk(name.encode(), b"\xff\0\x07", wrong))
        assert np.array_equal(shown(content), np.asarray(image))


def test_transparency_with_a_wrong_checksum_is_left_out() -> None:
    rows = bytes(range(16)) * 4
    opaque, transparent = (shown(png(16, 4, 8, 0, rows, chunk(b"tRNS", b"\0\x05", wrong))) for wrong in (True, False))
    assert opaque[0, 5].tolist() == [5, 5, 5]
    assert transparent[0, 5].tolist() == [255, 255, 255]


@pytest.mark.parametrize("name", ["IHDR", "PLTE", "IDAT"])
def test_a_wrong_checksum_of_a_chunk_that_the_pixels_need_is_named(name: str) -> None:
    content = bytearray(encode(noise().convert("P")))
    place = content.index(name.encode())
    length = int.from_bytes(content[place - 4 : place])
    content[place + 4 + length] ^= 0x80
    found = refusal(bytes(content))
    assert found.reason == "corrupt_image"
    assert f"checksum of chunk {name}" in found.detail


@pytest.mark.parametrize(
    "said",
    [
        chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\x01\0\0\0" + zlib.compress(b"<tiff:Orientation>6</tiff:Orientation>")),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n  9\n" + exif(6).hex().encode())),
        chunk(b"eXIf", exif(6)[6:]),
    ],
)
def test_which_way_up_a_png_is_may_stand_in_several_places(said: bytes) -> None:
    image = noise()
    assert np.array_equal(shown(with_chunk(encode(image), said)), np.rot90(np.asarray(image), -1))


@pytest.mark.parametrize(
    "said", [b"Raw profile type exif\0\0\x78\x9c\xff", b"XML:com.adobe.xmp\0\0" + LARGE, b"XML:com.adobe.xmp"]
)
def test_a_broken_or_huge_text_that_might_say_which_way_up_says_nothing(said: bytes) -> None:
    image = noise()
    assert np.array_equal(shown(with_chunk(encode(image), chunk(b"zTXt", said))), np.asarray(image))


def gif(screen: tuple[int, int], frame: tuple[int, int], disposal: int = 0) -> bytes:
    content = bytearray(encode(Image.new("P", (4, 4), 1), "GIF"))
    content[6:10] = struct.pack("<HH", *screen)
    place = content.index(b",\0\0\0\0\x04\0\x04\0")
    content[place + 5 : place + 9] = struct.pack("<HH", *frame)
    return bytes(content[:place] + b"!\xf9\x04" + bytes([disposal << 2, 0, 0, 0, 0]) + content[place:])


@pytest.mark.parametrize(("screen", "frame"), [((65535, 65535), (4, 4)), ((4, 4), (65535, 65535)), ((65535, 16), (16, 65535))])
def test_a_gif_with_a_giant_canvas_is_refused_before_anything_is_allocated(
    monkeypatch: pytest.MonkeyPatch, screen: tuple[int, int], frame: tuple[int, int]
) -> None:
    content = gif(screen, frame, disposal=2)
    monkeypatch.setattr("PIL.Image.core", None)
    assert refusal(content).reason == "too_many_pixels"


def test_comments_of_a_gif_are_not_looked_at() -> None:
    content = gif((4, 4), (4, 4))
    place = content.index(b"!\xf9")
    comment = b"!\xfe" + b"\x01x" * 1000 + b"\0"
    assert np.array_equal(shown(content[:place] + 3 * comment + content[place:]), shown(content))
    assert "blocks" in refusal(content[:place] + b"!\xfe" + b"\x01x" * 300_000 + b"\0" + content[place:]).detail


def grey_tiff(*more: tuple[int, int, tuple[int, ...]], order: str = "<") -> bytes:
    return tiff(bytes(range(12)), [*tiff_tags(4, 3, 1, 8), *more], order)


GREY = np.arange(12).reshape(3, 4)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("tag", [34665, 34853, 34675, 700, 33723, 37724, 330, 40965])
def test_no_broken_tag_beside_the_pixels_costs_a_tiff(tag: int, order: str) -> None:
    content = grey_tiff((tag, 4, (0xFFFFFFF0, 0xFFFFFFFF, 7)), order=order)
    assert np.array_equal(shown(content)[..., 0], GREY)


def test_a_tiff_is_turned_upright() -> None:
    assert np.array_equal(shown(grey_tiff((274, 3, (6,))))[..., 0], np.rot90(GREY, -1))


def test_a_tiff_of_more_strips_or_tiles_than_any_picture_needs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stripping, "MAX_PARTS", 100)
    assert "101 values" in refusal(grey_tiff((324, 4, (8,) * 101))).detail
    assert refusal(grey_tiff((322, 4, (60_000,)), (323, 4, (60_000,)))).reason == "too_many_pixels"


def test_other_pages_of_a_tiff_are_not_read() -> None:
    content = grey_tiff()
    directory = struct.unpack_from("<I", content, 4)[0]
    (count,) = struct.unpack_from("<H", content, directory)
    after = directory + 2 + 12 * count
    for following in (directory, 0xFFFFFFF0):
        looped = content[:after] + struct.pack("<I", following) + content[after + 4 :]
        assert np.array_equal(shown(looped)[..., 0], GREY)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000"])
def test_whatever_is_damaged_is_a_picture_or_an_error_with_its_reason(kind: str) -> None:
    chosen = random.Random(7)  # noqa: S311 - any numbers do
    image = noise(1, (24, 16)).convert("P" if kind in ("GIF", "PNG") else "RGB")
    told = kind in ("JPEG", "PNG", "WEBP", "AVIF")
    content = with_exif(image, kind, exif(6, BROKEN_RATIONAL)) if told else encode(image, kind)
    reasons = set()
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(chosen.choice((1, 1, 3, 20))):
            damaged[chosen.randrange(len(damaged))] = chosen.choice((0, 1, 0x7F, 0xFF, chosen.randrange(256)))
        cut = chosen.choice((len(damaged), len(damaged), chosen.randrange(len(damaged))))
        try:
            reasons.add(upright_image(bytes(damaged[:cut]), 10**6)[1])
        except ImageError as error:
            reasons.add(error.reason)
    assert reasons <= {"corrupt_image", "unknown_format", "too_many_pixels", "empty_image", *(f.endings[0] for f in FORMATS)}
    assert "corrupt_image" in reasons


def test_nothing_of_a_files_metadata_reaches_the_decoder() -> None:
    jpeg = with_segment(encode(noise(), "JPEG", exif=exif(1)), 0xFE, b"planted")
    whole_png = with_chunk(encode(noise(), exif=exif(1)), chunk(b"tEXt", b"Comment\0planted"))
    for content, strip in ((jpeg, stripping.strip_jpeg), (whole_png, stripping.strip_png)):
        assert re.search(rb"planted", content)
        assert not re.search(rb"Exif|eXIf|planted", strip(content).content)
