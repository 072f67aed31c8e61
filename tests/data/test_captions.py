from __future__ import annotations

import json

import pytest

from raymia.data.captions import (
    CAPTION_CLEANED,
    CAPTION_CUT,
    CAPTION_NOT_UTF8,
    CAPTION_UNREADABLE,
    MAX_CAPTION,
    NO_CAPTION,
    Caption,
    caption_beside,
    caption_of,
)

CAFE = "caf\u00e9 au lait"


@pytest.mark.parametrize("content", [CAFE.encode(), f"  {CAFE}\n".encode(), f"{CAFE}\r\n\r\n".encode()])
def test_a_plain_text_is_its_caption_without_a_remark(content: bytes) -> None:
    assert caption_beside({"txt": content}) == Caption(CAFE)
    assert caption_beside({"json": json.dumps({"caption": content.decode()}).encode()}) == Caption(CAFE)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le+", "utf-16-be+", "utf-32-be+"])
@pytest.mark.parametrize("extension", ["txt", "json"])
def test_a_byte_order_mark_is_taken_out_and_said(encoding: str, extension: str) -> None:
    mark = "\ufeff" if encoding.endswith("+") else ""
    text = CAFE if extension == "txt" else json.dumps({"caption": CAFE}, ensure_ascii=False)
    found = caption_beside({extension: (mark + text).encode(encoding.removesuffix("+"))})
    assert found.text == CAFE
    assert CAPTION_CLEANED in found.flags
    assert (CAPTION_NOT_UTF8 in found.flags) == (encoding != "utf-8-sig")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_is_read_where_it_is_plain(encoding: str) -> None:
    assert caption_beside({"txt": "a red house".encode(encoding)}) == Caption("a red house", (CAPTION_NOT_UTF8,))


def test_bytes_that_are_no_utf8_are_replaced_and_said() -> None:
    assert caption_beside({"txt": b"caf\xe9"}) == Caption("caf\ufffd", (CAPTION_NOT_UTF8,))
    assert caption_beside({"json": b'{"caption": "caf\xe9"}'}) == Caption("caf\ufffd", (CAPTION_NOT_UTF8,))
    assert caption_beside({"txt": "a house".encode("utf-16") + b"\x00"}).flags == (CAPTION_CLEANED, CAPTION_NOT_UTF8)


@pytest.mark.parametrize("empty", [b"", b" \n\t", b"\xef\xbb\xbf", b"\xff\xfe", b"\0\0\0"])
def test_an_empty_text_does_not_hide_the_caption_in_json(empty: bytes) -> None:
    assert caption_beside({"txt": empty, "json": b'{"caption": "a house"}'}) == Caption("a house")
    assert caption_beside({"txt": empty}) == Caption("", (NO_CAPTION,))


def test_a_text_counts_before_json_even_where_that_is_broken() -> None:
    assert caption_beside({"json": b"{", "txt": b"a house"}) == Caption("a house")


@pytest.mark.parametrize(
    "content",
    [
        b"{broken",
        b"[" * 3000,
        b'{"a":' * 3000 + b"1" + b"}" * 3000,
        b'["a house"]',
        b'"a house"',
        b'{"caption": 7}',
        b'{"caption": ["a house"]}',
        b'{"caption": {"en": "a house"}}',
        b'{"caption": true}',
        b"\xff\xfe{\0",
    ],
)
def test_json_that_does_not_say_a_caption_costs_none_but_a_remark(content: bytes) -> None:
    assert caption_beside({"json": content}) == Caption("", (CAPTION_UNREADABLE, NO_CAPTION))


@pytest.mark.parametrize("content", [b"{}", b'{"caption": null}', b'{"caption": ""}', b'{"caption": "  "}', b"", b"{}\n"])
def test_json_without_a_caption_is_no_fault(content: bytes) -> None:
    assert caption_beside({"json": content}) == Caption("", (NO_CAPTION,))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("lone \ud800 half", Caption("lone ? half", (CAPTION_NOT_UTF8,))),
        ("\udfff", Caption("?", (CAPTION_NOT_UTF8,))),
        ("\U0001f600 smile", Caption("\U0001f600 smile")),
        ("cafe\u0301", Caption("caf\u00e9", (CAPTION_CLEANED,))),
        ("\u1100\u1161", Caption("\uac00", (CAPTION_CLEANED,))),
        ("nul\0in\x1bside", Caption("nul in side", (CAPTION_CLEANED,))),
        ("\ufeff\ufeffmarked", Caption("marked", (CAPTION_CLEANED,))),
        ("two\nlines\tand\x0btabs", Caption("two\nlines\tand\x0btabs")),
        ("x" * (MAX_CAPTION + 1), Caption("x" * MAX_CAPTION, (CAPTION_CUT,))),
        ("x" * MAX_CAPTION, Caption("x" * MAX_CAPTION)),
    ],
)
def test_what_is_repaired_is_said_wherever_a_caption_comes_from(value: str, expected: Caption) -> None:
    assert caption_of(value) == expected
    assert caption_beside({"json": json.dumps({"caption": value}).encode()}) == expected


@pytest.mark.parametrize("value", [None, "", "  ", "\ufeff", "\0"])
def test_no_caption_is_said(value: str | None) -> None:
    assert caption_of(value) == Caption("", (NO_CAPTION,))


def test_without_files_there_is_no_caption() -> None:
    assert caption_beside({}) == Caption("", (NO_CAPTION,))
