"""LAION's hash is recognised: it is what the package mmh3 gives."""

from __future__ import annotations

import pytest

from raymia.curation.murmur import laion_hash, murmur3_128


@pytest.mark.parametrize(
    ("url", "text", "first"),
    [
        # `mmh3.hash64(url + text)[0]` of mmh3 5.3.1; the first is in its documents.
        ("f", "oo", -2129773440516405919),
        ("https://example.org/a/very/long/name.jpg", "A picture of a cat", 3127952534260493986),
    ],
)
def test_the_hash_is_that_of_mmh3(url: str, text: str, first: int) -> None:
    assert laion_hash(url, text) == first


def test_both_halves_are_as_published() -> None:
    assert murmur3_128(b"") == (0, 0)
    assert murmur3_128(b"foo") == (-2129773440516405919 % 2**64, 9128664383759220103)
