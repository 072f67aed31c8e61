"""Captions as they come beside images, in tars, folders and tables: one reader, and a remark for whatever it repaired."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from raymia.documents import DocumentError, parse_json

TEXTS = ("txt", "json")
"""Extensions of the files that may hold a sample's caption; the first that holds one counts."""
MAX_TEXT_BYTES = 2**20
"""A file of more is not read for a caption."""

# Flags are remarks on a sample that is scored all the same.
NO_CAPTION = "no_caption"
CAPTION_NOT_UTF8 = "caption_not_utf8"
CAPTION_UNREADABLE = "caption_unreadable"
BOMS = {
    b"\xef\xbb\xbf": "utf-8",
    b"\xff\xfe\x00\x00": "utf-32-le",
    b"\x00\x00\xfe\xff": "utf-32-be",
    b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
}
"""Byte order marks, those that others begin with first, and the encodings that they announce."""


@dataclass(frozen=True)
class Caption:
    """A caption, in Unicode's composed form and without space around it.

    Attributes:
        text: empty where there is none.
        flags: remarks on what is missing or was repaired.
    """

    text: str
    flags: tuple[str, ...] = ()


def caption_beside(files: Mapping[str, bytes]) -> Caption:
    """The caption of an image, from the files beside it: the ``.txt``, or else the ``caption`` field of the ``.json``.

    Args:
        files: contents by extension in lower case, of those in `TEXTS`.
    """
    flags: list[str] = []
    for extension in TEXTS:
        if extension not in files:
            continue
        text = _decoded(files[extension], flags)
        value: object = text
        if extension == "json":
            value = _field(text, flags)
        if isinstance(value, str) and value.strip():
            return _clean(value, flags)
    return Caption("", (*dict.fromkeys(flags), NO_CAPTION))


def caption_of(value: str | None) -> Caption:
    """A caption that is text already, such as a cell of a table."""
    return Caption("", (NO_CAPTION,)) if value is None or not value.strip() else _clean(value, [])


def _field(text: str, flags: list[str]) -> object:
    if not text.strip():
        return None
    try:
        facts = parse_json(text, strict=False)
    except DocumentError:
        flags.append(CAPTION_UNREADABLE)
        return None
    return facts.get("caption") if isinstance(facts, dict) else None


def _decoded(content: bytes, flags: list[str]) -> str:
    mark = next((mark for mark in BOMS if content.startswith(mark)), b"")
    try:
        text = content[len(mark) :].decode(BOMS.get(mark, "utf-8"))
    except UnicodeDecodeError:
        flags.append(CAPTION_NOT_UTF8)
        return content[len(mark) :].decode(BOMS.get(mark, "utf-8"), "replace")
    if mark and BOMS[mark] != "utf-8":
        flags.append(CAPTION_NOT_UTF8)
    return text


def _clean(text: str, flags: list[str]) -> Caption:
    stripped = text.strip()
    # Half a surrogate pair, which JSON can spell, is no text.
    clean = stripped.encode("utf-8", "replace").decode()
    if clean != stripped:
        flags.append(CAPTION_NOT_UTF8)
    return Caption(unicodedata.normalize("NFC", clean), tuple(dict.fromkeys(flags)))
