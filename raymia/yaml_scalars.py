"""What a YAML scalar without quotes means, where YAML 1.1 and YAML 1.2 agree."""

from __future__ import annotations

import math
import re
from typing import Any

import yaml
from yaml.resolver import Resolver

TAG = "tag:yaml.org,2002:"
_CORE = {
    "null": r"(null|Null|NULL|~|)",
    "bool": r"(true|True|TRUE|false|False|FALSE)",
    "int": r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)",
    "float": r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))",
}
"""What a plain scalar is in YAML 1.2, by the core schema; all else is text."""
_YES, _NO = ("y", "yes", "on"), ("n", "no", "off")
_LONGEST_SHOWN = 40


class ScalarError(ValueError):
    """A scalar has no plain meaning; says why and what to write instead."""


def shown(text: str) -> str:
    """A text between backticks, cut where it is long, with what cannot be printed as escapes."""
    cut = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}.."
    return f"`{cut if cut.isprintable() else cut.encode('unicode_escape').decode()}`"


def is_whole(text: str) -> bool:
    """Whether a text can be written: half a surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_RESOLVER = Resolver()


def plain_value(text: str) -> Any:
    """What a scalar without quotes means, where YAML 1.1 and YAML 1.2 agree.

    Raises:
        ScalarError: they do not, or it is no number that can be reckoned with.
    """
    old = str(_RESOLVER.resolve(yaml.ScalarNode, text, (True, False))).removeprefix(TAG)  # type: ignore[no-untyped-call]
    new = next((kind for kind, pattern in _CORE.items() if re.fullmatch(pattern, text)), "str")
    if old != new or text.lower() in ("y", "n") or (new == "int" and re.match(r"[-+]?0[0-9]", text)):
        raise ScalarError(f"{shown(text)} is {_advice(text, old, new)}")
    if new == "float":
        number = float(text) if "n" not in text.lower() else math.nan
        if not math.isfinite(number):
            raise ScalarError(f"{shown(text)} is no number to reckon with; write a finite number, or quotes for text")
        return number
    if new == "int":
        return _whole_number(text)
    return {"null": None, "bool": text.lower() == "true", "str": text}[new]


def _whole_number(text: str) -> int:
    try:
        return int(text, 16 if "x" in text else 10)
    except ValueError as error:  # Python converts no more than some thousand digits
        raise ScalarError(f"{shown(text)} has {len(text)} digits, which is no number to reckon with") from error


def _advice(text: str, old: str, new: str) -> str:
    """Why a plain scalar is not read, and what to write instead."""
    quoted = f'"{text[:_LONGEST_SHOWN]}" in quotes for text'
    if old == "merge":
        return "a merge in YAML 1.1 alone; write the keys out"
    if old == "value":
        return f"a mark in YAML 1.1 and text in YAML 1.2; write {quoted}"
    if old == "timestamp":
        return f"a date in YAML 1.1 and text in YAML 1.2; write {quoted}"
    if text.lower() in (*_YES, *_NO):
        word = "true" if text.lower() in _YES else "false"
        return f"{word} in YAML 1.1 and text in YAML 1.2; write {word}, or {quoted}"
    differently = f"{old} in YAML 1.1 and {new} in YAML 1.2".replace("str", "text") if old != new else "read in two ways"
    number = float(text) if re.fullmatch(_CORE["float"], text) else math.inf
    if not math.isfinite(number):
        return f"{differently}; write a plain decimal number, or {quoted}"
    plain = str(int(text)) if new == "int" and len(text) < _LONGEST_SHOWN else repr(number)
    # Neither version takes 1e-05 for the number that the other does.
    plain = plain.replace("e", ".0e") if "e" in plain and "." not in plain else plain
    return f"{differently}; write {plain} for the number, or {quoted}"
