"""Shapes that images are resized to."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from raymia.data.images import decode_image
from raymia.data.shapes import Shapes, square
from raymia.replica.sdxl import SDXL
from tests.data.test_images import encode

THREE = Shapes(((64, 64), (32, 128), (128, 32)))


@pytest.mark.parametrize(
    ("size", "expected"),
    [((50, 50), (64, 64)), ((100, 390), (32, 128)), ((900, 300), (128, 32)), ((100, 190), (64, 64)), ((100, 210), (32, 128))],
)
def test_an_image_takes_the_shape_that_is_nearest_by_ratio(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert THREE.nearest(*size) == expected
    pixels = decode_image(encode(Image.new("RGB", (size[1], size[0]))), THREE, 10**6).pixels
    assert pixels.shape == (*expected, 3)


def test_a_crop_keeps_the_middle_and_says_where_it_begins() -> None:
    stripes = np.zeros((40, 200, 3), np.uint8)
    stripes[:, 80:120] = 255
    pixels = decode_image(encode(Image.fromarray(stripes)), Shapes(((20, 40),)), 10**6).pixels
    assert pixels[:, :8].max() < 5
    assert pixels[:, 12:28].min() > 250
    # 200 x 40 covers 40 x 20 as 100 x 20, of which 30 are cut on the left.
    assert Shapes(((20, 40),)).placed(40, 200) == (40, 200, 0, 30)
    assert square(20).placed(30, 20) == (30, 20, 5, 0)


def test_sdxls_shapes_are_those_of_its_paper_and_of_its_area() -> None:
    sizes = SDXL().buckets(1024).sizes
    assert len(sizes) == len(set(sizes)) == 41
    assert {(832, 1216), (1216, 832), (1024, 1024), (512, 2048)} <= set(sizes)
    assert all(height % 64 == width % 64 == 0 and 0.9 < height * width / 1024**2 <= 1.01 for height, width in sizes)
    assert all(height % 8 == width % 8 == 0 for height, width in SDXL().buckets(512).sizes)
