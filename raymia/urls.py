"""URLs without what is nobody's business: the one cleaner for every text that was built from one."""

from __future__ import annotations

import re
from typing import Any

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")


def public(text: str) -> str:
    """A URL, or a text in which URLs stand, without user names, passwords, query strings and fragments."""
    return _ADDRESS.sub(lambda found: _without_credentials(found[0]), text)


def without_secrets(value: Any) -> Any:
    """A copy of JSON-like data in which URLs have lost user names, passwords, query strings and fragments."""
    if isinstance(value, dict):
        return {key: without_secrets(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return public(value) if isinstance(value, str) else value


def _without_credentials(url: str) -> str:
    scheme, _, rest = url.partition("://")
    # A password may hold "/", "?" and "#", so that the last "@" ends it, and only then does the rest mean anything.
    _, _, rest = rest.rpartition("@")
    return f"{scheme}://{re.split('[?#]', rest, maxsplit=1)[0]}"
