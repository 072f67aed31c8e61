from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from raymia.data.images import decode_image, prepare_image, upright_image
from tests.data.image_files import chunk, encode, noise, png, tiff, tiff_tags


def shown(content: bytes) -> np.ndarray:
    return np.asarray(upright_image(content, 10**6)[0])


def grey(content: bytes) -> list[int]:
    pixels = shown(content)
    assert np.array_equal(pixels, pixels[..., :1].repeat(3, -1))
    return [int(value) for value in pixels[..., 0].ravel()]


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return colour * alpha / 255 + 255 - alpha


def test_a_cmyk_jpeg_keeps_its_colour() -> None:
    red = encode(Image.new("RGB", (40, 40), (200, 30, 30)).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decode_image(red, 16, 10**6).pixels.astype(int) - [200, 30, 30]).max() < 20


def test_a_cmyk_tiff_is_ink_taken_from_white() -> None:
    ink = np.random.default_rng(0).integers(0, 256, (6, 7, 4), dtype=np.uint8)
    found = shown(encode(Image.frombytes("CMYK", (7, 6), ink.tobytes()), "TIFF"))
    expected = (255 - ink[..., :3].astype(float)) * (255 - ink[..., 3:]) / 255
    assert np.abs(found - expected).max() <= 1


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    ramp = Image.fromarray(np.full((32, 32), 32896, np.uint16))
    assert decode_image(encode(ramp), 16, 10**6).pixels[0, 0].tolist() == [128, 128, 128]


def test_transparency_is_composited_on_white() -> None:
    assert decode_image(encode(Image.new("RGBA", (20, 20), (0, 0, 0, 0))), 16, 10**6).pixels.min() == 255


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_half_transparent_pixels_are_mixed_with_white(mode: str) -> None:
    image = noise(1).convert(mode)
    alpha = np.random.default_rng(2).integers(0, 256, (32, 40), dtype=np.uint8)
    image.putalpha(Image.fromarray(alpha))
    colour = np.asarray(image.convert("RGBA"), float)[..., :3]
    assert np.abs(shown(encode(image)) - over_white(colour, alpha[..., None].astype(float))).max() <= 1


def test_sixteen_bit_grey_with_a_transparent_value_is_white_there() -> None:
    values = [0, 0x1234, 0x1235, 0x9234, 0xFFFF]
    content = png(5, 1, 16, 0, struct.pack(">5H", *values), chunk(b"tRNS", struct.pack(">H", 0x1234)))
    assert grey(content) == [0, 255, round(0x1235 / 257), round(0x9234 / 257), 255]


@pytest.mark.parametrize(("depth", "value"), [(1, 0), (1, 1), (2, 0), (2, 2), (4, 5), (4, 15), (8, 200)])
def test_grey_of_any_depth_with_a_transparent_value_is_white_there(depth: int, value: int) -> None:
    values = list(range(2**depth)) if depth < 8 else [0, 100, 200, 250]
    bits = "".join(f"{v:0{depth}b}" for v in values)
    row = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8))
    content = png(len(values), 1, depth, 0, row, chunk(b"tRNS", struct.pack(">H", value)))
    assert grey(content) == [255 if v == value else round(v * 255 / (2**depth - 1)) for v in values]


@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_colour_is_white_there(depth: int) -> None:
    colours = [(10, 20, 30), (10, 20, 31), (255, 255, 255), (0, 0, 0)]
    scale = 257 if depth == 16 else 1
    row = b"".join(struct.pack(">3H" if depth == 16 else ">3B", *(v * scale for v in colour)) for colour in colours)
    content = png(4, 1, depth, 2, row, chunk(b"tRNS", struct.pack(">3H", *(v * scale for v in colours[0]))))
    assert shown(content)[0].tolist() == [[255, 255, 255], *map(list, colours[1:])]


def test_sixteen_bit_grey_with_alpha_is_mixed_with_white() -> None:
    content = png(3, 1, 16, 4, struct.pack(">6H", 0x8000, 0xFFFF, 0x8000, 0, 0, 0x8000))
    assert np.abs(np.array(grey(content)) - [128, 255, 127]).max() <= 1


def test_a_palette_with_transparent_entries_is_mixed_with_white() -> None:
    palette = chunk(b"PLTE", bytes([200, 0, 0, 0, 200, 0, 0, 0, 200]))
    content = png(3, 1, 8, 3, bytes([0, 1, 2]), palette, chunk(b"tRNS", bytes([255, 128, 0])))
    assert np.abs(shown(content)[0].astype(int) - [[200, 0, 0], [127, 227, 127], [255, 255, 255]]).max() <= 1


def test_one_bit_is_black_and_white() -> None:
    assert grey(png(8, 1, 1, 0, b"\xa5")) == [255, 0, 255, 0, 0, 255, 0, 255]
    assert grey(encode(Image.frombytes("1", (8, 1), b"\xa5"), "TIFF", compression="group4")) == [255, 0, 255, 0, 0, 255, 0, 255]


def test_sixteen_bit_rgb_keeps_its_upper_bits() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (3, 4, 3))
    big, little = (values.astype(f"{order}u2").tobytes() for order in "><")
    assert np.array_equal(shown(png(4, 3, 16, 2, big)), values >> 8)
    assert np.array_equal(shown(tiff(little, tiff_tags(4, 3, 2, 16, 16, 16))), values >> 8)
    assert np.array_equal(shown(tiff(big, tiff_tags(4, 3, 2, 16, 16, 16), ">")), values >> 8)


def test_grey_tiffs_of_twelve_and_sixteen_bits_and_with_white_at_zero() -> None:
    values = [0, 1000, 32896, 65535]
    for order in "<>":
        content = tiff(struct.pack(f"{order}4H", *values), tiff_tags(4, 1, 1, 16), order)
        assert grey(content) == [0, 4, 128, 255]
    assert grey(tiff(struct.pack("<4H", *values), tiff_tags(4, 1, 0, 16))) == [255, 251, 127, 0]
    assert grey(tiff(bytes([0xFF, 0xF8, 0x08]), tiff_tags(2, 1, 1, 12))) == [255, round(0x808 * 255 / 4095)]
    assert grey(tiff(bytes([0, 9, 255]), tiff_tags(3, 1, 0, 8))) == [255, 246, 0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0, float("nan")], [0, 128, 255, 0]),
        ([0.0, 100.4, 255.0, 300.0], [0, 100, 255, 255]),
        ([-1.0, 0.25, float("inf"), float("-inf")], [0, 64, 255, 0]),
    ],
)
def test_fractions_span_one_or_255(values: list[float], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], np.float32))
    assert grey(encode(image, "TIFF")) == expected


def lab_to_rgb(lab: np.ndarray) -> np.ndarray:
    """CIE 15 and IEC 61966-2-1, with Bradford's matrix from D50."""
    l, a, b = lab[..., 0] * 100 / 255, lab[..., 1], lab[..., 2]  # noqa: E741 - its name
    y = (l + 16) / 116
    t = np.stack([y + a / 500, y, y - b / 200], -1)
    xyz = np.where(t > 6 / 29, t**3, 3 * (6 / 29) ** 2 * (t - 4 / 29)) * [0.9642, 1.0, 0.8249]
    to_rgb = np.array([[3.13386, -1.61687, -0.49061], [-0.97877, 1.91614, 0.03345], [0.07195, -0.22899, 1.40524]])
    linear = (xyz @ to_rgb.T).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_lab_is_seen_under_d50() -> None:
    lab = np.array([[[255, 0, 0], [0, 0, 0], [128, 0, 0], [140, 40, 30], [180, -30, 40], [100, 20, -50]]])
    content = tiff((lab % 256).astype(np.uint8).tobytes(), tiff_tags(6, 1, 8, 8, 8, 8))
    assert np.abs(shown(content) - lab_to_rgb(lab.astype(float))).max() <= 3


@pytest.mark.parametrize("mode", ["I", "F", "LAB", "HSV", "YCbCr", "CMYK", "La", "RGBa", "PA", "I;16", "1"])
def test_a_picture_of_any_mode_that_is_open_already_is_prepared(mode: str) -> None:
    image = Image.new(mode, (8, 8), 1 if mode in ("I", "F", "I;16", "1") else 0)
    assert prepare_image(image, 8).pixels.shape == (8, 8, 3)
