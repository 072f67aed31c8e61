"""Properties of XMP are found however they are written, and what is no XMP declares nothing and costs nothing."""

from __future__ import annotations

import pytest

from raymia.data import xmp
from raymia.data.xmp import XmpError, xmp_properties

RDF = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:a="urn:a/" xmlns:b="urn:b/"'
SAID = "<a:Said>x</a:Said>"
WANTED = {"urn:a/ Said": "said", "urn:a/ Other": "other"}


def packet(attributes: str = "", inner: str = "") -> bytes:
    return f"<rdf:RDF {RDF}><rdf:Description {attributes}>{inner}</rdf:Description></rdf:RDF>".encode()


@pytest.mark.parametrize(
    "content",
    [
        packet('a:Said="x"'),
        packet("", "<a:Said> x </a:Said>"),
        packet("", '<a:Said rdf:resource="x"/>'),
        packet("", '<a:Said><rdf:Alt><rdf:li xml:lang="x-default">x</rdf:li><rdf:li>y</rdf:li></rdf:Alt></a:Said>'),
        packet('b:Said="z"', "<a:Said>x</a:Said><a:Said>y</a:Said><a:Other></a:Other>"),
        b"\n<?xpacket begin='' id='W5M0'?>" + packet('a:Said="x"') + b"<?xpacket end='w'?>" + b"\0 " * 500,
        packet('a:Said="x"').decode().encode("utf-16"),
        # What went into the file says something of itself, and may stand first.
        packet("", f'<b:In><rdf:Bag><rdf:li><rdf:Description a:Said="y" a:Other="y"/></rdf:li></rdf:Bag></b:In>{SAID}'),
        packet("", f'<b:In rdf:parseType="Resource"><a:Said>y</a:Said><a:Other>y</a:Other></b:In>{SAID}'),
        packet("", f'<b:In a:Said="y" a:Other="y"/>{SAID}'),
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/">' + packet('a:Said="x"') + b"</x:xmpmeta>",
    ],
)
def test_a_property_is_found_as_attribute_element_address_and_first_of_a_list(content: bytes) -> None:
    assert xmp_properties(content, WANTED) == {"said": "x"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE x [<!ENTITY a 'b'>]>" + packet('a:Said="&a;"'), "declares a document type"),
        (b"no xml", "no XML: "),
        (packet('a:Said="x"')[:-20], "no XML: "),
        (b"<a>" * 300 + b"</a>" * 300, "nested deeper than 200"),
        (b"", "no XML: "),
        (packet("", "<a:Said>&undeclared;</a:Said>"), "no XML: undefined entity"),
    ],
)
def test_what_is_no_xmp_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(XmpError, match=message):
        xmp_properties(content, WANTED)


def test_size_and_values_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(xmp_properties(packet(f'a:Said="{"x" * 10_000}"'), WANTED)["said"]) == xmp.MAX_VALUE
    monkeypatch.setattr(xmp, "MAX_BYTES", 10)
    with pytest.raises(XmpError, match="more than 10"):
        xmp_properties(packet(), WANTED)
