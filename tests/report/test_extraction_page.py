"""Where a work and its closest image are most alike, in words."""

from __future__ import annotations

import pytest

from raymia.evaluation.extraction import Found, Match
from raymia.report.extraction_page import where


@pytest.mark.parametrize(
    ("of_work", "of_image", "words"),
    [
        (("whole", 0.6000001), ("whole", 0.6000001), "whole to whole"),
        (("left", 0.5), ("centre", 0.55), "whole to whole"),
        (("upper left", 0.7), ("centre", 0.65), "the image to the upper left of the work (0.700)"),
        (("whole", 0.6), ("right", 0.8), "the work to the right part of the image (0.800)"),
    ],
)
def test_the_place_of_the_match_is_said_in_words(of_work: tuple[str, float], of_image: tuple[str, float], words: str) -> None:
    match = Match(of_work=of_work[0], of_work_similarity=of_work[1], of_image=of_image[0], of_image_similarity=of_image[1])
    names = {"split": "s", "shard": "a", "key": "k", "role": "chosen", "caption": "", "match": match}
    numbers = {"similarity": 0.6, "mean": 0.5, "cluster": 1, "above": [], "draw": 0, "height": 64, "width": 64}
    absent = dict.fromkeys(("member", "screened", "floor", "p", "extracted", "seed", "steps", "guidance"))
    assert where(Found(**names, **numbers, **absent)) == words
