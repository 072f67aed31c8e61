from __future__ import annotations

import io

import numpy as np
from PIL import Image

from raymia.curation.verification import MIN_AGREEMENT, agreement, thumbnail_of

MAX_PIXELS = 10_000_000


def picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((240, 200), Image.Resampling.BICUBIC)


def thumbnail(image: Image.Image, quality: int = 90) -> np.ndarray:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    found = thumbnail_of(buffer.getvalue(), MAX_PIXELS)
    assert found is not None
    return found


def test_a_picture_agrees_with_itself_resized_reencoded_and_cropped_and_with_no_other() -> None:
    whole = picture(0)
    twins = [whole.resize((150, 120)), whole.crop((12, 10, 240, 200)), whole.crop((6, 5, 234, 195))]
    assert all(agreement(thumbnail(whole), thumbnail(twin, 50)) >= MIN_AGREEMENT for twin in twins)
    assert all(agreement(thumbnail(whole), thumbnail(picture(seed))) < 0.7 for seed in range(1, 6))


def test_bytes_that_are_no_picture_have_no_thumbnail() -> None:
    assert thumbnail_of(b"nonsense", MAX_PIXELS) is None
