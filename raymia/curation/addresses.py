"""Addresses of images in one spelling, so that those which lead to one file are alike."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from urllib.parse import urlsplit

MAX_LENGTH = 2**14
"""Characters of an address; a longer text is none."""
PORTS = {"http": 80, "https": 443}
"""Schemes of addresses that are looked for, with the port that need not be said."""

_HOST = re.compile(r"[^\s/?#@:\[\]\\%<>\"]+|\[[0-9a-f:.]+\]")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")
_UNSAFE = re.compile(r"[^A-Za-z0-9._~!$&'()*+,;=:@/?%-]")
"""What may stand in neither path nor query as it is."""
_NO_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True)
class Address:
    """An address in one spelling.

    Attributes:
        whole: scheme, host, port, path and query; without fragment, user, the host's ``www.`` and what is usual to leave out.
        without_query: the same without the query.
        host_and_path: host and path alone, whatever the scheme and the port.
        host: the host alone.
    """

    whole: str
    without_query: str
    host_and_path: str
    host: str


def address_of(url: str | None) -> Address | None:
    """An address in one spelling; none for a text that is no address of the web.

    Scheme and host are in lower case and IDNA, without ``www.`` and a dot at the end; usual ports, users and fragments are left
    out; dots of the path are resolved; of percent-encoding, what needs none has none and the rest is in capitals (RFC 3986,
    section 6.2.2). The query is kept as it stands but for its encoding.
    """
    if url is None or len(url) > MAX_LENGTH:
        return None
    try:
        parts = urlsplit(url.strip())
        scheme, port = parts.scheme.lower(), parts.port
    except ValueError:
        return None
    host = plain_host(parts.netloc.rpartition("@")[2])
    if scheme not in PORTS or host is None:
        return None
    place = host if port in (None, PORTS[scheme]) else f"{host}:{port}"
    path = _without_dots(_encoded(parts.path))
    query = f"?{_encoded(parts.query)}" if parts.query else ""
    return Address(f"{scheme}://{place}{path}{query}", f"{scheme}://{place}{path}", f"{host}{path}", host)


def plain_host(authority: str) -> str | None:
    """The host of an authority without user, in one spelling; none where it is none."""
    name = re.sub(r":\d*$", "", authority).lower()
    if not name.isascii():
        try:
            name = unicodedata.normalize("NFKC", name).encode("idna").decode()
        except UnicodeError:
            return None
    name = name.rstrip(".").removeprefix("www.")
    return name if _HOST.fullmatch(name) else None


def _encoded(text: str) -> str:
    """A path or query with no other escapes than are needed, those in capitals."""
    whole = _NO_ESCAPE.sub("%25", text)
    plain = _ESCAPE.sub(lambda found: _unescaped(found[1]), whole)
    return _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass")), plain)


def _unescaped(digits: str) -> str:
    character = chr(int(digits, 16))
    return character if _UNRESERVED.fullmatch(character) else f"%{digits.upper()}"


def _without_dots(path: str) -> str:
    """A path whose ``.`` and ``..`` are resolved (RFC 3986, section 5.2.4), and which begins with a slash."""
    if "/." not in path:
        return path if path.startswith("/") else f"/{path}"
    kept: list[str] = []
    parts = path.split("/")
    for part in parts[1:]:
        if part == "..":
            del kept[-1:]
        elif part != ".":
            kept.append(part)
    ending = "/" if parts[-1] in (".", "..") and kept else ""
    return "/" + "/".join(kept) + ending
