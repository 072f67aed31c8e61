"""What an image file says of its own making and of rights: EXIF, IPTC, XMP, and whether it carries Content Credentials."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from PIL import ExifTags, Image, IptcImagePlugin
from PIL.ImageFile import ImageFile

from raymia.data.dates import is_blank_date, parse_file_date
from raymia.data.formats import format_of
from raymia.data.pillow import ImageError, guarded
from raymia.data.xmp import MAX_VALUE, XmpError, xmp_properties

PHOTOSHOP, XAP, DC = "http://ns.adobe.com/photoshop/1.0/", "http://ns.adobe.com/xap/1.0/", "http://purl.org/dc/elements/1.1/"
RIGHTS, PLUS = "http://ns.adobe.com/xap/1.0/rights/", "http://ns.useplus.org/ldf/xmp/1.0/"
XMP_PROPERTIES = {
    f"{PHOTOSHOP} DateCreated": "created",
    f"{XAP} CreateDate": "created",
    f"{PHOTOSHOP} Credit": "credit",
    f"{DC} creator": "creator",
    f"{DC} rights": "rights",
    f"{RIGHTS} UsageTerms": "usage_terms",
    f"{RIGHTS} WebStatement": "web_statement",
    f"{PLUS} DataMining": "data_mining",
}
"""Fields by the properties of XMP that say them; `plus:DataMining` is that of IPTC Photo Metadata 2023.1."""
IPTC_FIELDS = {(2, 55): "created", (2, 110): "credit", (2, 80): "creator", (2, 116): "rights"}
"""Fields by the data sets of IPTC's Information Interchange Model."""
EXIF_FIELDS = {ExifTags.Base.Artist: "creator", ExifTags.Base.Copyright: "rights"}
C2PA_BOX = re.compile(rb"jumb.{4}jumdc2pa\x00\x11\x00\x10\x80\x00\x00\xaa\x00\x38\x9b\x71.c2pa\x00", re.DOTALL)
"""How the box that holds Content Credentials begins: JUMBF's description with C2PA's type and label."""
RAW_DATA_MINING = "http://ns.useplus.org/ldf/vocab/"
"""What values of `plus:DataMining` begin with."""


@dataclass(frozen=True)
class FileClaims:
    """What a file says.

    Attributes:
        fields: texts by name: created, credit, creator, rights, usage_terms, web_statement, data_mining; of what several places
            in the file say, XMP's counts, then IPTC's, then EXIF's; of dates, the first that is one.
        said_by: the place that each was taken from: `XMP`, `IPTC` or `EXIF`.
        has_credentials: whether it carries a box of Content Credentials (C2PA).
        faults: places that are there and cannot be read, each with why.
    """

    fields: dict[str, str] = field(default_factory=dict)
    said_by: dict[str, str] = field(default_factory=dict)
    has_credentials: bool = False
    faults: dict[str, str] = field(default_factory=dict)


def file_claims(content: bytes) -> FileClaims:
    """Read what a file says beside its pixels, which are not decoded. Never raises for a bad file: what is bad is a fault."""
    claims = FileClaims(has_credentials=C2PA_BOX.search(content) is not None)
    kind = format_of(content)
    if kind is None:
        claims.faults["file"] = "begins like no image that is read"
        return claims
    try:
        with guarded():
            image = kind.opener(io.BytesIO(content))
        with image:
            packet = kind.strip(content).xmp or _bytes(image.info.get("xmp"))
            _take(claims, "XMP", lambda: xmp_properties(packet, XMP_PROPERTIES) if packet else {})
            _take(claims, "IPTC", lambda: _iptc(image))
            _take(claims, "EXIF", lambda: _exif(image))
    except ImageError as error:
        claims.faults["file"] = error.detail
    return claims


def _take(claims: FileClaims, place: str, read: Callable[[], dict[str, str]]) -> None:
    """Add what a place says of what no earlier one did."""
    try:
        with guarded():
            found = {name: value for name, value in read().items() if name != "created" or not is_blank_date(value)}
    except ImageError as error:
        claims.faults[place] = error.detail.removeprefix(f"{XmpError.__name__}: ")
        return
    for name, value in found.items():
        if value and (name not in claims.fields or _says_more(name, value, claims.fields[name])):
            claims.fields[name], claims.said_by[name] = value, place


def _says_more(name: str, value: str, known: str) -> bool:
    """Whether a value is a date where an earlier one is none."""
    return name == "created" and parse_file_date(known) is None and parse_file_date(value) is not None


def _iptc(image: ImageFile) -> dict[str, str]:
    known = IptcImagePlugin.getiptcinfo(image) or {}
    found = {}
    for place, name in IPTC_FIELDS.items():
        value = known.get(place)
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, bytes):
            # Where no character set is announced, it is that of whoever wrote it: UTF-8, or else a byte for each letter.
            found[name] = _text(first)
    return found


def _exif(image: Image.Image) -> dict[str, str]:
    exif = image.getexif()
    taken = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal)
    values = {"created": taken} | {name: exif.get(tag) for tag, name in EXIF_FIELDS.items()}
    return {name: _text(_as_bytes(value)) for name, value in values.items() if isinstance(value, str | bytes)}


def _as_bytes(value: str | bytes) -> str | bytes:
    """The bytes of a text of EXIF, each of which Pillow takes for a letter, though writers put UTF-8 there."""
    try:
        return value.encode("latin-1") if isinstance(value, str) else value
    except UnicodeEncodeError:
        return value


def _text(value: str | bytes) -> str:
    if isinstance(value, bytes):
        try:
            return _text(value.decode())
        except UnicodeDecodeError:
            return _text(value.decode("latin-1"))
    return value.strip("\0 \t\r\n")[:MAX_VALUE]


def _bytes(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return value if isinstance(value, bytes) else b""
