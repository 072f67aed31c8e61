"""Which pictures are one and the same, by their pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raymia.curation.verification import COMPARED_PX, MIN_AGREEMENT, agreement, thumbnail_of
from raymia.data.images import MAX_PIXELS
from raymia.evidence.sets import Sources, make_sets, twins_of
from tests.evidence.conftest import QUIET, pictures_of


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((one == other).all()) or max(agreement(one, other), agreement(one, other[:, ::-1])) >= MIN_AGREEMENT


def test_twins_are_those_that_agree_pair_by_pair_however_small_or_mirrored_a_copy_is() -> None:
    pictures = [item.image or b"" for item in pictures_of("members", 8)]
    thumbnails = [thumbnail_of(content, MAX_PIXELS) for content in pictures]
    known = [one for one in thumbnails if one is not None]
    small = np.asarray(Image.fromarray(known[3]).resize((24, 24)).resize((COMPARED_PX, COMPARED_PX)))
    uniform = np.full_like(known[0], 200)
    stacked = np.stack([*known, small, known[7], uniform, uniform, known[5][:, ::-1]])
    expected = {
        (one, other)
        for one in range(len(stacked))
        for other in range(one + 1, len(stacked))
        if alike(stacked[one], stacked[other])
    }
    assert {(3, 8), (7, 9), (10, 11), (5, 12)} <= expected
    assert {tuple(pair) for pair in twins_of(stacked).tolist()} == expected


@pytest.mark.usefixtures("local_ray")
def test_one_split_of_a_manifest_that_selects_of_several_is_a_set(tmp_path: Path) -> None:
    sets = make_sets(Sources("testbed-memorised#beside", "testbed-memorised#once"), str(tmp_path / "audit"), QUIET)
    assert sets.samples == {"works": 10, "control": 6}


def test_one_picture_has_no_twin() -> None:
    assert twins_of(np.zeros((0, COMPARED_PX, COMPARED_PX, 3), np.uint8)).shape == (0, 2)
    assert twins_of(np.zeros((1, COMPARED_PX, COMPARED_PX, 3), np.uint8)).shape == (0, 2)
