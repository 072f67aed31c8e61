"""URLs without what is nobody's business: the one cleaner for every text that was built from one.

What goes: user names, passwords, query strings and fragments. What stays is enough to say which file is meant. A password may
hold almost anything, so where a URL can be read in two ways, it is read in the one that may hide more.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote

LOCAL = frozenset({"file", "local"})
"""Schemes of paths on this machine, which hold no credentials and may hold any character."""
CONTAINERS = frozenset({"abfs", "abfss", "adl", "az", "wasb", "wasbs"})
"""Schemes whose name before the ``@`` is that of a container; it stays unless a password follows it."""
WITH_PORTS = frozenset({"ftp", "ftps", "hdfs", "http", "https", "ray", "sftp", "smb", "ssh", "webhdfs"})
"""Schemes after whose host a number may be a port; after others it is part of a secret."""

_START = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_ENCODED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*%3A%2F%2F[^\s'\"<>&]*", re.IGNORECASE)
_NEXT = re.compile(r"(?:::|['\"]?[,;|]['\"]?)[A-Za-z][A-Za-z0-9+.-]*://")
"""Where another URL begins that is no part of the one before, as in lists and in chains of fsspec."""
_TOKEN = re.compile(r"[^\s<>]*@[^\s'\"<>]*|[^\s'\"<>]*")
"""What may belong to a URL in a text. Quotes end it, unless they stand in a password."""
_PARAMETER = re.compile(
    r"(?<=[?&;])((?:x-(?:amz|goog|oss|ms)-[\w-]+|[\w-]*(?:sig|signature|token|secret|password|passwd|api[_-]?key|credential)[\w-]*"
    r"|awsaccesskeyid|policy|key-pair-id|auth)=)[^\s&;'\"<>()\]}]+",
    re.IGNORECASE,
)
"""Parameters that open a door, where a query stands without its URL."""


def public(text: str) -> str:
    """A URL, or a text in which URLs stand, without user names, passwords, query strings and fragments.

    A path is not changed, whatever characters it holds.
    """
    if "://" in text:
        text = _without_secrets(text)
    if "%" in text:
        text = _ENCODED.sub(lambda found: quote(public(unquote(found[0])), safe=""), text)
    return _PARAMETER.sub(r"\1...", text) if "=" in text else text


def without_secrets(value: Any) -> Any:
    """A copy of JSON-like data in which URLs have passed `public`, in keys of maps too; keys that become alike are numbered."""
    if isinstance(value, dict):
        kept: dict[Any, Any] = {}
        for key, item in value.items():
            clean = name = public(key) if isinstance(key, str) else key
            number = 1
            while name in kept:
                number += 1
                name = f"{clean} ({number})"
            kept[name] = without_secrets(item)
        return kept
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return public(value) if isinstance(value, str) else value


def _without_secrets(text: str) -> str:
    parts, position = [], 0
    while found := _START.search(text, position):
        parts.append(text[position : found.end()])
        scheme = found[1].lower()
        token = _TOKEN.match(text, found.end())
        address = token[0] if token else ""
        following = _NEXT.search(address)
        if following is not None:
            address = address[: following.start()]
        position = found.end() + len(address)
        if _cut_password(scheme, address):
            # The password holds a space or a quote: it ends where the line has its next "@".
            line = text[position:].split("\n", 1)[0]
            before, mark, _ = line.partition("@")
            if mark:
                position += len(before) + 1
                rest = _TOKEN.match(text, position)
                address = f"{address}@{rest[0] if rest else ''}"
                position += len(rest[0]) if rest else 0
        parts.append(_clean(scheme, address))
    return "".join(parts) + text[position:]


def _authority(address: str) -> tuple[str, str]:
    """What stands before the first of ``/``, ``?`` and ``#``, and that mark."""
    cut = re.search(r"[/?#]", address)
    return (address, "") if cut is None else (address[: cut.start()], cut[0])


def _cut_password(scheme: str, address: str) -> bool:
    """Whether a URL breaks off within a password: what follows the ``:`` is no port, and no ``@`` comes."""
    authority, mark = _authority(address)
    name, colon, port = authority.rpartition(":")
    if not colon or "@" in address or mark or name.startswith("[") or scheme in LOCAL:
        return False
    return re.fullmatch(r"\d*[:.,;)\]}!]*", port) is None


def _clean(scheme: str, address: str) -> str:
    """The address of a URL, which is all behind its ``://``, without secrets."""
    if scheme in LOCAL:
        return public(address)
    nested = _START.search(address)
    if nested is None or "@" not in address[: nested.start()]:
        return _clean_one(scheme, address)
    # What stands before a URL within this one is looked at alone, so that the inner one's host does not end a password.
    outer, inner = address[: nested.start()], address[nested.start() :]
    return _clean_one(scheme, outer) + ("" if re.search("[?#]", outer) else public(inner))


def _clean_one(scheme: str, address: str) -> str:
    if "@" in address and _has_credentials(scheme, address):
        address = address.rpartition("@")[2]
    elif _cut_password(scheme, address):
        address = ""
    shown = re.split("[?#]", address, maxsplit=1)[0]
    closing = "" if shown == address else address[len(address.rstrip(":.,;)]}")) :]
    # A URL may stand in the path of another, as in archives of the web; what an outer one hides is gone already.
    return public(shown) + closing


def _has_credentials(scheme: str, address: str) -> bool:
    """Whether what stands before the last ``@`` is a user and perhaps a password, and not a path in which an ``@`` stands."""
    authority, mark = _authority(address)
    if "@" in authority:
        return not (scheme in CONTAINERS and ":" not in authority.rpartition("@")[0])
    _, colon, port = authority.rpartition(":")
    if not colon or (authority.startswith("[") and authority.endswith("]")):
        return False
    # With "host:80" before a "/", the "@" is the path's. Before "?" or "#" it would be a query's; a password is likelier.
    return not (scheme in WITH_PORTS and (port.isdigit() or not port) and mark == "/")
