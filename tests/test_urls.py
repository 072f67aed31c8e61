"""What stays of a URL once its secrets are out, wherever in a text it stands."""

from __future__ import annotations

import pytest

from raymia.errors import ConfigError
from raymia.urls import public, without_secrets

WORDS = ("user", "pass", "word", "sig", "secret")


@pytest.mark.parametrize(
    "secretive",
    [
        "https://user:pass@host/x.tar",
        "https://user:p@ss/word@host/x.tar",
        "https://user:pass#word@host/x.tar",
        "https://user:pass?word@host/x.tar",
        "https://user:1#word@host/x.tar",
        "https://user:pass/word@host/x.tar",
        "https://user:p%40ss@host/x.tar",
        "https://user:pass'word@host/x.tar",
        'https://user:pass"word@host/x.tar',
        "https://user:pass word@host/x.tar",
        "https://secret@host/x.tar",
        "https://host/x.tar?sig=1&secret=2",
        "https://host/x.tar#sig=1",
        "https://user:pass@host/x.tar?to=https://user:word@other/secret",
    ],
)
def test_a_url_loses_its_credentials_query_and_fragment(secretive: str) -> None:
    assert public(secretive) == "https://host/x.tar"


@pytest.mark.parametrize(
    "text",
    [
        "http://host/@user/x.tar",
        "http://host:8080/@user/x.tar",
        "http://[::1]:8080/a@b/x.tar",
        "http://[::1]/@user/x.tar",
        "hf://datasets/owner/set@main/x.tar",
        "abfs://container@account.dfs.core.windows.net/a/x.tar",
        "abfss://container@account.dfs.core.windows.net/a@v1/x.tar",
        "file:///sets/a#1?.tar",
        "/sets/@scope/a#1?.tar",
        "http://host:8080: refused; write to me@home",
        "cannot reach http://host: no such name",
        "no url = at all? really; a token=ring",
    ],
)
def test_a_path_is_not_a_secret_whatever_it_holds(text: str) -> None:
    assert public(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://key:secret@bucket/x.tar", "s3://bucket/x.tar"),
        ("s3://key:12/secret@bucket/x.tar", "s3://bucket/x.tar"),
        ("abfs://user:secret@account.dfs.core.windows.net/x.tar", "abfs://account.dfs.core.windows.net/x.tar"),
        ("simplecache::https://user:pass@host/x.tar", "simplecache::https://host/x.tar"),
        ("zip://a.tar::https://user:pass@host/x.zip?sig=1", "zip://a.tar::https://host/x.zip"),
        ("403, message='Forbidden', url='https://user:pass@host/x?sig=1'", "403, message='Forbidden', url='https://host/x'"),
        ("URL('https://user:pass@host/x?sig=1') failed", "URL('https://host/x') failed"),
        ("[https://user:pass@a/x,https://user:word@b/y]", "[https://a/x,https://b/y]"),
        ('["https://user:pass@a/x","https://user:word@b/y"]', '["https://a/x","https://b/y"]'),
        ("at https://web.org/2020/https://user:pass@host/x", "at https://web.org/2020/https://host/x"),
        ("https%3A%2F%2Fuser%3Apass%40host%2Fx%3Fsig%3D1 gone", "https%3A%2F%2Fhost%2Fx gone"),
        ("url: /x.tar?X-Amz-Signature=secret&part=3 (Caused by", "url: /x.tar?X-Amz-Signature=...&part=3 (Caused by"),
        ("two: https://user:pass@a/x\nand https://user:word@b/y.", "two: https://a/x\nand https://b/y."),
    ],
)
def test_urls_within_texts_chains_and_other_urls_are_cleaned(text: str, expected: str) -> None:
    assert public(text) == expected
    assert public(expected) == expected, "cleaning twice changes nothing"


def test_keys_of_maps_are_cleaned_and_stay_apart() -> None:
    digests = {"https://host/x.tar?part=1": "a", "https://host/x.tar?part=2": "b", "y.tar": "c"}
    clean = without_secrets({"sha256": digests, "n": 3, "list": ("s3://k:secret@b/x", None)})
    assert clean == {
        "sha256": {"https://host/x.tar": "a", "https://host/x.tar (2)": "b", "y.tar": "c"},
        "n": 3,
        "list": ["s3://b/x", None],
    }


def test_an_error_of_raymia_never_shows_a_secret_whoever_wrote_its_text() -> None:
    error = ConfigError("manifest https://user:pass@host/m.yaml?sig=1: cannot be read")
    assert str(error) == "manifest https://host/m.yaml: cannot be read"
