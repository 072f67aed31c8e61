"""Perceptual hashes are those of ImageHash, and how many pairs chance makes near is what counting all of them gives."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import ExifTags, Image

from raymia.curation import perceptual
from raymia.curation.perceptual import expected_by_chance, hashes_of, parse_hash, perceptual_hashes
from raymia.data.images import MAX_PIXELS

BY_IMAGEHASH = ("fc9848e313c4ae3b", "8ce3d8b83acbc534", "fc6c8d47db2420da")
"""What `imagehash.phash` of ImageHash 4.3.2 gives for the pictures of these numbers."""


def picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((96, 64), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(("seed", "digits"), list(enumerate(BY_IMAGEHASH)))
def test_the_hash_is_that_of_imagehash(seed: int, digits: str) -> None:
    assert perceptual_hashes(encoded(picture(seed)), MAX_PIXELS) == {int(digits, 16)}


def test_the_bits_are_those_of_the_cosine_sums_written_out() -> None:
    grey = np.asarray(picture(5).convert("L").resize((32, 32), Image.Resampling.LANCZOS), float)
    angles = np.pi / 32 * np.outer(np.arange(8), np.arange(32) + 0.5)
    sums = np.cos(angles) @ grey @ np.cos(angles).T
    bits = "".join("1" if value > np.median(sums) else "0" for value in sums.ravel())
    assert perceptual_hashes(encoded(picture(5)), MAX_PIXELS) == {int(bits, 2)}


def test_a_picture_saved_anew_is_near_and_one_of_one_tone_has_no_hash() -> None:
    small = encoded(picture(1).resize((48, 32)), "JPEG")
    (near,) = perceptual_hashes(small, MAX_PIXELS)
    assert (near ^ int(BY_IMAGEHASH[1], 16)).bit_count() <= 4
    assert perceptual_hashes(encoded(Image.new("RGB", (80, 60), (9, 90, 200))), MAX_PIXELS) == frozenset()


def test_a_picture_that_exif_turns_has_the_hash_of_its_stored_pixels_too() -> None:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture(0).save(buffer, "PNG", exif=exif)
    shown = encoded(picture(0).transpose(Image.Transpose.ROTATE_270))
    assert perceptual_hashes(buffer.getvalue(), MAX_PIXELS) == {int(BY_IMAGEHASH[0], 16)} | perceptual_hashes(shown, MAX_PIXELS)
    assert len(perceptual_hashes(buffer.getvalue(), MAX_PIXELS)) == 2


def test_hashes_are_read_from_digits_and_from_whole_numbers_with_and_without_sign() -> None:
    values = [0, 2**63 + 5, 2**64 - 1]
    digits = pa.array([*(f"{value:016x}" for value in values), None, "xyz", "12"])
    signed = pa.array([*(value - 2**64 if value >= 2**63 else value for value in values), None], pa.int64())
    for column, missing in ((digits, 3), (signed, 1), (pa.array([*values, None], pa.uint64()), 1)):
        hashes, there = hashes_of(column)
        assert hashes[there].tolist() == values
        assert there.tolist() == [True] * 3 + [False] * missing
    assert parse_hash("0xFFFFFFFFFFFFFFFF") == 2**64 - 1


def test_the_pairs_that_chance_makes_near_are_counted_in_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "BITS", 10)
    near = sum((one ^ other).bit_count() <= 4 for one in range(1024) for other in range(1024))
    assert expected_by_chance(1024, 1024, 4) == pytest.approx(near)
