"""Captions as they come beside images, in tars, folders and tables: one reader, and a remark for whatever it repaired."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from raymia.documents import DocumentError, parse_json

TEXTS = ("txt", "json")
"""Extensions of the files that may hold a sample's caption; the first that holds one counts."""
MAX_TEXT_BYTES = 2**20
"""A file of more is not read for a caption."""
MAX_CAPTION = 2**14
"""Characters of a caption that count; no model reads as many."""

# Flags are remarks on a sample that is scored all the same.
NO_CAPTION = "no_caption"
CAPTION_NOT_UTF8 = "caption_not_utf8"
"""Another encoding, or bytes or half characters that are no text, in whose place stands U+FFFD or a question mark."""
CAPTION_UNREADABLE = "caption_unreadable"
"""A file that may hold the caption cannot be read, or holds something else in its place."""
CAPTION_CLEANED = "caption_cleaned"
"""A byte order mark or control characters were taken out, or letters and their accents put together (Unicode's form C)."""
CAPTION_CUT = "caption_cut"
"""It is longer than any model reads."""
BOMS = {
    b"\xef\xbb\xbf": "utf-8",
    b"\xff\xfe\x00\x00": "utf-32-le",
    b"\x00\x00\xfe\xff": "utf-32-be",
    b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
}
"""Byte order marks, those that others begin with first, and the encodings that they announce."""
CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1b\x7f\x80-\x84\x86-\x9f]+")
"""Control characters but for those that Python takes for space."""


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
        of_file: list[str] = []
        text = _decoded(files[extension], of_file)
        found = _clean(_field(text, of_file) if extension == "json" else text, of_file)
        if found:
            return Caption(found, tuple(dict.fromkeys((*flags, *of_file))))
        # What was repaired in a file that holds no caption is nothing to the caption of another.
        flags += [flag for flag in of_file if flag == CAPTION_UNREADABLE]
    return Caption("", (*dict.fromkeys(flags), NO_CAPTION))


def caption_of(value: str | None) -> Caption:
    """A caption that is text already, such as a cell of a table."""
    flags: list[str] = []
    text = _clean(value or "", flags)
    return Caption(text, tuple(dict.fromkeys(flags))) if text else Caption("", (NO_CAPTION,))


def _field(text: str, flags: list[str]) -> str:
    """The caption in a JSON text; a number, a list or another value is none and is not made into one."""
    if not text.strip():
        return ""
    try:
        facts = parse_json(text)
    except DocumentError:
        flags.append(CAPTION_UNREADABLE)
        return ""
    if not isinstance(facts, dict):
        flags.append(CAPTION_UNREADABLE)
        return ""
    value = facts.get("caption")
    if value is not None and not isinstance(value, str):
        flags.append(CAPTION_UNREADABLE)
    return value if isinstance(value, str) else ""


def _decoded(content: bytes, flags: list[str]) -> str:
    mark = next((mark for mark in BOMS if content.startswith(mark)), b"")
    encoding = BOMS[mark] if mark else _without_mark(content)
    if mark:
        flags.append(CAPTION_CLEANED)
    if encoding != "utf-8":
        flags.append(CAPTION_NOT_UTF8)
    body = content[len(mark) :]
    try:
        return body.decode(encoding)
    except UnicodeDecodeError:
        flags.append(CAPTION_NOT_UTF8)
        return body.decode(encoding, "replace")


def _without_mark(content: bytes) -> str:
    """UTF-16 where every other byte is zero, as in Latin letters that some editors write without a mark; UTF-8 otherwise."""
    if len(content) > 1 and len(content) % 2 == 0:
        if any(content[::2]) and not any(content[1::2]):
            return "utf-16-le"
        if any(content[1::2]) and not any(content[::2]):
            return "utf-16-be"
    return "utf-8"


def _clean(text: str, flags: list[str]) -> str:
    # Half a surrogate pair, which JSON can spell, is no text.
    whole = text.encode("utf-8", "replace").decode()
    if whole != text:
        flags.append(CAPTION_NOT_UTF8)
    clean = unicodedata.normalize("NFC", CONTROLS.sub(" ", whole.lstrip("\ufeff")))
    if clean != whole:
        flags.append(CAPTION_CLEANED)
    clean = clean.strip()
    if len(clean) > MAX_CAPTION:
        flags.append(CAPTION_CUT)
        clean = clean[:MAX_CAPTION].rstrip()
    return clean
