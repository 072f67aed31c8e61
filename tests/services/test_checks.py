"""What is made of a service's answer: the pixels that it sent, or the reason why they cannot be scored."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from raymia.data.tar import RawSample, read_shard
from raymia.services.checks import image_of, require_prompt
from raymia.services.protocol import Query, ServiceError
from raymia.testbed import ASSETS

QUERY = Query("k", 0, "a red  fox", 1, 64, 64, 10, 7.5)
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def file_of(image: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def reason_of(content: bytes, lossless: bool = True, query: Query = QUERY) -> str:
    with pytest.raises(ServiceError) as error:
        image_of(content, query, lossless)
    return error.value.reason


def test_the_pixels_of_a_png_arrive_as_they_were_made() -> None:
    found = image_of(file_of(Image.fromarray(NOISE)), QUERY, lossless=True)
    assert torch.equal(found, torch.tensor(NOISE).permute(2, 0, 1).float() / 127.5 - 1.0)


def test_a_jpeg_is_taken_only_where_its_error_does_not_matter() -> None:
    content = file_of(Image.fromarray(NOISE), "JPEG", quality=95)
    assert reason_of(content) == "lossy_answer"
    assert image_of(content, QUERY, lossless=False).shape == (3, 64, 64)


def test_another_size_is_refused_and_not_resized() -> None:
    assert reason_of(file_of(Image.fromarray(NOISE[:32, :32]))) == "wrong_size"
    assert reason_of(file_of(Image.fromarray(NOISE)), query=replace(QUERY, height=32)) == "wrong_size"


@pytest.mark.parametrize("content", [b"", b"<html>", file_of(Image.fromarray(NOISE))[:400], b"GIF89a"])
def test_what_is_no_image_says_so(content: bytes) -> None:
    assert reason_of(content) == "no_image"


def test_what_filters_make_of_images_is_told_from_images() -> None:
    assert reason_of(file_of(Image.new("RGB", (64, 64)))) == "blank_answer"
    assert reason_of(file_of(Image.new("RGB", (64, 64), (200, 10, 10)))) == "blank_answer"
    colours = Image.fromarray(np.linspace(40, 200, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8))
    assert reason_of(file_of(colours.filter(ImageFilter.GaussianBlur(24)))) == "blurred_answer"


def test_real_pictures_are_taken_for_pictures() -> None:
    shard = ASSETS / "shards" / "members-0000.tar"
    samples = [sample for sample in read_shard(str(shard)) if isinstance(sample, RawSample) and sample.image]
    assert len(samples) > 100
    for sample in samples:
        picture = Image.open(io.BytesIO(sample.image)).convert("RGB").resize((64, 64))
        image_of(file_of(picture), QUERY, lossless=True)


def test_a_changed_prompt_is_refused_and_spaces_are_no_change() -> None:
    require_prompt(QUERY, None)
    require_prompt(QUERY, "a red fox ")
    with pytest.raises(ServiceError, match="prompt_changed: made under another prompt: a fox in snow"):
        require_prompt(QUERY, "a fox in snow")
