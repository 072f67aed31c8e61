"""Keys are distinct, fit for a tar and hold no secret; names that mean one file find it, and doubtful ones do not."""

from __future__ import annotations

import unicodedata

import pytest

from raymia.curation.names import FIT, extension_of, keys_of, pair

COMPOSED, APART = (unicodedata.normalize(form, "gr\u00fc\u00df.jpg") for form in ("NFC", "NFD"))


def test_keys_are_near_to_names_distinct_and_fit() -> None:
    names = ["a/b.c.jpg", "a/b c.jpg", "./d.jpg", "/e.jpg", "new\nline.jpg", "\udce9.jpg", "\ud800.jpg", ".jpg", "a::b.jpg"]
    keys = keys_of(names)
    assert len(set(keys)) == len(keys)
    assert all(FIT.fullmatch(key) and key.isascii() for key in keys)
    assert keys[2:5] == ["d", "e", "new_line"]
    assert keys[-1] == "a_b"
    assert keys == keys_of(names)


def test_keys_of_urls_hold_neither_user_nor_password_nor_signature() -> None:
    names = [f"https://user:p@ss/word@host/a.jpg?sig=secret{number}#secret" for number in range(3)]
    keys = keys_of(names)
    assert len(set(keys)) == 3
    assert not any(word in key for key in keys for word in ("user", "ss", "word", "sig", "secret"))


@pytest.mark.parametrize(
    ("wanted", "there"),
    [
        ("./a.jpg", "a.jpg"),
        ("x/../a.jpg", "a.jpg"),
        (COMPOSED, APART),
        (APART, COMPOSED),
        ("deep\\a.jpg", "deep/a.jpg"),
        (".\\Deep\\A.JPG", "deep/a.jpg"),
        ("IMG_1.JPG", "img_1.jpg"),
        (COMPOSED.upper(), APART),
    ],
)
def test_a_name_that_is_spelled_otherwise_finds_its_file(wanted: str, there: str) -> None:
    assert pair([wanted], {there, "other.jpg"}) == {wanted: there}


def test_a_name_that_is_there_is_itself_and_what_is_in_doubt_finds_nothing() -> None:
    assert pair(["a.jpg", "A.jpg"], {"a.jpg", "A.jpg"}) == {"a.jpg": "a.jpg", "A.jpg": "A.jpg"}
    # One file for two names, and two files for one name.
    assert pair(["a.jpg", "A.jpg"], {"a.jpg"}) == {"a.jpg": "a.jpg"}
    assert pair(["A.jpg", "a.JPG"], {"a.jpg"}) == {}
    assert pair(["A.JPG"], {"a.jpg", "A.jpg"}) == {}
    # The Unicode form decides before case does.
    assert pair([COMPOSED], {APART, COMPOSED.upper()}) == {COMPOSED: APART}
    assert pair(["b.jpg"], {"a.jpg"}) == {}


def test_extensions_are_what_follows_the_last_dot_in_lower_case() -> None:
    assert [extension_of(name) for name in ("a.b.JPG", "dir.v1/a", ".hidden", "a.")] == ["jpg", "", "", ""]
