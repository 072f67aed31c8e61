"""Errors that a user can act on: each names what is wrong, what was expected and what to do, in one line."""

from __future__ import annotations

import difflib
import re
from typing import Any

from pydantic import BaseModel, ValidationError

from raymia.urls import public


class RaymiaError(Exception):
    """The command failed (exit code 1).

    Its message is one line that can be printed anywhere: what it quotes from files and URLs that somebody else made shows
    control characters as escapes, and nothing of a URL's credentials.
    """

    def __init__(self, message: object) -> None:
        """Make the error of a message."""
        super().__init__(visible(public(str(message))))


class ConfigError(RaymiaError):
    """Bad usage or configuration (exit code 2); raised before a model is loaded."""


def describe_validation(error: ValidationError, model: type[BaseModel], within: str = "") -> str:
    """The first fault that pydantic found, as field, problem and, for an unknown key, the nearest known one.

    Args:
        error: that validating raised.
        model: that was validated.
        within: the field that it stands in.
    """
    fault = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in ((within,) if within else ()) + fault["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if fault["type"] == "extra_forbidden":
        known = _fields_at(model, fault["loc"][:-1])
        return f"unknown key `{place}`{suggest(str(fault['loc'][-1]), known)}{more}"
    if fault["type"] == "missing":
        return f"`{place}` is missing{more}"
    message = fault["msg"].removeprefix("Value error, ")
    shown = f", not {fault['input']!r}" if isinstance(fault["input"], str | int | float | bool | None) else ""
    return f"`{place}`: {message}{shown}{more}" if place else f"{message}{shown}{more}"


def visible(text: str) -> str:
    """A text in one line, with what cannot be printed as escapes: no terminal obeys it."""
    joined = re.sub(r"\s*[\r\n]\s*", " ", text.strip())
    return joined if joined.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in joined)


def first_line(error: BaseException | None) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def suggest(name: str, known: list[str]) -> str:
    """The nearest known name, or all of them."""
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean `{near[0]}`?" if near else f"; known are {', '.join(sorted(known))}"


def _fields_at(model: type[BaseModel], place: tuple[str | int, ...]) -> list[str]:
    current: Any = model
    for part in place:
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            continue
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        current = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), current)
    return list(getattr(current, "model_fields", {}))
