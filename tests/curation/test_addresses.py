"""Addresses that lead to one file are alike, and others are not."""

from __future__ import annotations

import pytest

from raymia.curation.addresses import MAX_LENGTH, address_of

PLAIN = "https://example.org/a/b.jpg?x=1&y=2"


def whole(url: str | None) -> str | None:
    address = address_of(url)
    return None if address is None else address.whole


@pytest.mark.parametrize(
    "spelled",
    [
        "HTTPS://WWW.Example.ORG:443/a/b.jpg?x=1&y=2#part",
        "https://user:word@example.org./a/./c/../b.jpg?x=1&y=2",
        " https://example.org/%61/b%2Ejpg?x=1&y=2\n",
        "https://example.org/a/b.jpg?x=%31&y=2",
    ],
)
def test_spellings_of_one_address_are_one(spelled: str) -> None:
    assert whole(spelled) == PLAIN


@pytest.mark.parametrize(
    "other",
    ["http://example.org/a/b.jpg?x=1&y=2", "https://example.org:8080/a/b.jpg?x=1&y=2", "https://example.org/A/b.jpg?x=1&y=2",
     "https://example.org/a/b.jpg?y=2&x=1", "https://www2.example.org/a/b.jpg?x=1&y=2", "https://example.org/a%2Fb.jpg?x=1&y=2"],
)  # fmt: skip
def test_what_may_lead_elsewhere_is_not_the_same(other: str) -> None:
    assert whole(other) != PLAIN


def test_without_query_and_without_scheme_and_port_more_is_alike() -> None:
    address, other = address_of(PLAIN), address_of("http://www.example.org:8080/a/b.jpg")
    assert address is not None
    assert other is not None
    assert (address.without_query, other.without_query) == (
        "https://example.org/a/b.jpg",
        "http://example.org:8080/a/b.jpg",
    )
    assert address.host_and_path == other.host_and_path == "example.org/a/b.jpg"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://b\u00fccher.example/\u00fc b.jpg", "https://xn--bcher-kva.example/%c3%bc%20b.jpg"),
        ("https://example.org", "https://example.org/"),
        ("https://example.org/100%.jpg", "https://example.org/100%25.jpg"),
        ("https://example.org/a/..", "https://example.org/"),
    ],
)
def test_letters_of_all_scripts_and_bare_hosts_have_one_spelling(one: str, other: str) -> None:
    assert whole(one) == whole(other) is not None
    # What has been put in one spelling stays as it is.
    assert whole(whole(one)) == whole(one)


@pytest.mark.parametrize(
    "text",
    [None, "", "a.jpg", "ftp://example.org/a", "https://", "https://[::1/a", "https://example.org:99999/a", "data:image/png,x",
     "https://a b/c", "https://example.org/" + "a" * MAX_LENGTH, "https://\ud800.example/a"],
)  # fmt: skip
def test_what_is_no_address_is_none(text: str | None) -> None:
    assert address_of(text) is None
