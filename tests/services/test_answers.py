"""The store of answers: what is kept is found again whole, and what is damaged is as if it had not been kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raymia.services.answers import Answers, digest_of

ASKED = {"service": {"url": "https://example.org"}, "prompt": "a café", "seed": 7, "steps": None, "strength": 0.2}
MANY = 2**20


@pytest.fixture(params=["folder", "memory"])
def answers(request: pytest.FixtureRequest, tmp_path: Path) -> Answers:
    return Answers(str(tmp_path) if request.param == "folder" else None)


def test_an_image_is_found_by_what_was_asked_and_by_nothing_else(answers: Answers) -> None:
    answers.keep(ASKED, b"an image", prompt="a café", headers={"seed": "7"})
    found = answers.find(dict(reversed(ASKED.items())), MANY)
    assert found is not None
    assert found[1] == b"an image"
    assert (found[0].prompt, found[0].headers, found[0].bytes) == ("a café", {"seed": "7"}, 8)
    assert answers.find({**ASKED, "seed": 8}, MANY) is None
    assert (answers.images(), answers.refusals()) == (1, 0)


def test_a_refusal_is_kept_too_and_is_no_image(answers: Answers) -> None:
    answers.keep(ASKED, None, reason="content_filter", detail="no")
    found = answers.find(ASKED, MANY)
    assert found is not None
    assert (found[0].reason, found[0].detail, found[1]) == ("content_filter", "no", b"")
    assert (answers.images(), answers.refusals()) == (0, 1)


def test_two_queries_with_one_image_are_two_images_that_are_paid_for(answers: Answers) -> None:
    for seed in (1, 2):
        answers.keep({**ASKED, "seed": seed}, b"the same")
    assert answers.images() == 2


@pytest.mark.parametrize("damage", [b"", b"{", b'{"asked": {}, "time": ""}', b"\xff\xfe", b"[" * 5000])
def test_a_record_that_cannot_be_read_is_as_if_there_were_none(tmp_path: Path, damage: bytes) -> None:
    answers = Answers(str(tmp_path))
    answers.keep(ASKED, b"an image")
    (record,) = tmp_path.glob("asked/*/*.json")
    record.write_bytes(damage)
    assert answers.find(ASKED, MANY) is None


def test_a_record_of_another_question_or_an_image_that_was_changed_is_no_answer(tmp_path: Path) -> None:
    answers = Answers(str(tmp_path))
    answers.keep(ASKED, b"an image")
    (image,) = (path for path in tmp_path.glob("images/*/*") if path.is_file())
    image.write_bytes(b"another!")
    assert answers.find(ASKED, MANY) is None
    image.write_bytes(b"an image")
    assert answers.find(ASKED, MANY) is not None
    record = tmp_path / "asked" / digest_of(ASKED)[:2] / f"{digest_of(ASKED)}.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "asked": {**ASKED, "seed": 8}}))
    assert answers.find(ASKED, MANY) is None


def test_an_image_without_its_record_was_not_kept(tmp_path: Path) -> None:
    answers = Answers(str(tmp_path))
    answers.keep(ASKED, b"an image")
    next(tmp_path.glob("asked/*/*.json")).unlink()
    assert answers.find(ASKED, MANY) is None
    assert answers.images() == 0
