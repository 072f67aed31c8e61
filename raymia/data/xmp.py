"""Some properties of an XMP packet, which may be anything: no entity is declared or resolved, and the first value counts."""

from __future__ import annotations

from collections.abc import Mapping
from xml.parsers import expat

MAX_BYTES = 2**22
"""A packet of more is not read."""
MAX_DEPTH = 200
MAX_VALUE = 2**12
"""Characters of a value; the rest is left out."""
WIDE = (b"\xff\xfe", b"\xfe\xff")
"""Marks of UTF-16, in which a zero is half of a letter."""
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
RESOURCE = f"{RDF} resource"
ROOT, DESCRIPTION = f"{RDF} RDF", f"{RDF} Description"


class XmpError(ValueError):
    """A packet cannot be read; says why."""


def xmp_properties(packet: bytes, wanted: Mapping[str, str]) -> dict[str, str]:
    """The first value of each property that is wanted and there.

    A property is an attribute of a description of the file, or an element in it with a text, an address (`rdf:resource`) or a
    list of which the first item counts. What stands within another property is said of something else, such as of a picture
    that went into this one, and is left out.

    Args:
        packet: the XML, in UTF-8 or what its beginning says.
        wanted: names by which properties are given, by their namespace and name with a space between.

    Raises:
        XmpError: it is no XML, declares a document type, or is too large or deep.
    """
    if len(packet) > MAX_BYTES:
        raise XmpError(f"{len(packet)} bytes, more than {MAX_BYTES}")
    reader = _Reader(wanted)
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartDoctypeDeclHandler = reader.refuse
    parser.EntityDeclHandler = reader.refuse
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        # Packets are padded with spaces and zeros, so that they can be changed in their place.
        parser.Parse(packet if packet.startswith(WIDE) else packet.strip(b"\0 \t\r\n"), True)
    except expat.ExpatError as error:
        raise XmpError(f"no XML: {error}") from error
    return reader.found


class _Reader:
    """Takes in an XML's elements."""

    def __init__(self, wanted: Mapping[str, str]) -> None:
        self.found: dict[str, str] = {}
        self._wanted = wanted
        self._open: list[str] = []
        self._texts: list[str] = []

    def refuse(self, *_: object) -> None:
        raise XmpError("it declares a document type or an entity, as no XMP does")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._open.append(name)
        if len(self._open) > MAX_DEPTH:
            raise XmpError(f"nested deeper than {MAX_DEPTH}")
        self._texts = []
        for attribute, value in attributes.items():
            if attribute == RESOURCE:
                self._note(self._property(), value)
            elif self._open[-2:] == [ROOT, DESCRIPTION]:
                self._note(attribute, value)

    def _property(self) -> str | None:
        """The property of the file that the innermost element is or belongs to; none where that is within another."""
        inner = self._open[self._open.index(ROOT) + 1 :] if ROOT in self._open else []
        of_others = [name for name in inner[1:] if not name.startswith(RDF)]
        return of_others[0] if inner[:1] == [DESCRIPTION] and len(of_others) == 1 else None

    def text(self, text: str) -> None:
        self._texts.append(text)

    def end(self, name: str) -> None:
        # The items of a list stand in `rdf:li` within `rdf:Seq` or the like within the property.
        self._note(self._property(), "".join(self._texts))
        self._texts = []
        self._open.pop()

    def _note(self, name: str | None, value: str) -> None:
        known, plain = self._wanted.get(name or ""), value.strip()
        if known is not None and plain:
            self.found.setdefault(known, plain[:MAX_VALUE])
