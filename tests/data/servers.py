"""A web server on loopback that answers as asked: in parts or not, packed, slowly, with statuses, or with half an answer."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Behaviour:
    """How a file is served.

    Attributes:
        content: the file.
        ranges: whether parts of it are given where they are asked for.
        length: whether its length is said; without, it comes in chunks.
        packed: whether it comes as gzip, wanted or not.
        statuses: of the first answers; those from 400 on come without the file.
        from_byte: statuses are those of the first answers from this byte on alone.
        always: the status of every answer from `from_byte` on, after `statuses`.
        headers: sent with answers whose status is an error or a redirect.
        breaks_after: bytes of the file after which the connection is closed, of as many answers as `breaks`.
        breaks: how many answers break off.
        pause_s: seconds between two bytes.
        endless: whether the file begins anew at its end, and no length is said.
        at_most: bytes that an answer holds at most, whatever was asked for.
        asked: ranges that were asked for, by answer.
    """

    content: bytes = b""
    ranges: bool = True
    length: bool = True
    packed: bool = False
    statuses: list[int] = field(default_factory=list)
    from_byte: int = 0
    always: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    breaks_after: int | None = None
    breaks: int = 1
    pause_s: float = 0.0
    endless: bool = False
    at_most: int | None = None
    asked: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def _answer(self, with_body: bool) -> None:
        found = self.server.files.get(self.path.partition("?")[0])
        if found is None:
            self._error(404, {})
            return
        asked = self.headers.get("Range", "")
        found.asked.append(asked)
        first = int(asked.removeprefix("bytes=").partition("-")[0] or 0) if asked else 0
        status = self._status(found, first)
        if status >= 300:
            self._error(status, found.headers)
        else:
            self._send(found, asked, with_body)

    def _status(self, found: Behaviour, first: int) -> int:
        if first < found.from_byte:
            return 200
        return found.statuses.pop(0) if found.statuses else found.always or 200

    def _error(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "5", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"sorry")

    def _send(self, found: Behaviour, asked: str, with_body: bool) -> None:
        content = gzip.compress(found.content) if found.packed else found.content
        first, last = 0, len(content) - 1
        partly = found.ranges and asked.startswith("bytes=")
        if partly:
            one, _, other = asked.removeprefix("bytes=").partition("-")
            first, last = int(one), min(int(other or last), last)
            if first >= len(content):
                self._error(416, {"Content-Range": f"bytes */{len(content)}"})
                return
        if found.at_most is not None:
            last = min(last, first + found.at_most - 1)
        part = content[first : last + 1]
        self.send_response(206 if partly else 200)
        if found.packed:
            self.send_header("Content-Encoding", "gzip")
        if partly:
            self.send_header("Content-Range", f"bytes {first}-{last}/{'*' if found.endless else len(content)}")
        chunked = found.endless or not found.length
        self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(part)))))
        self.end_headers()
        if with_body:
            self._body(found, part, chunked)

    def _body(self, found: Behaviour, part: bytes, chunked: bool) -> None:
        breaks = found.breaks_after is not None and found.breaks > 0 and len(part) > found.breaks_after
        if breaks:
            found.breaks -= 1
            part = part[: found.breaks_after]
        step = 1 if found.pause_s else 2**16
        try:
            while True:
                for start in range(0, len(part), step):
                    piece = part[start : start + step]
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                    if found.pause_s:
                        time.sleep(found.pause_s)
                if not found.endless:
                    break
            if breaks:
                self.close_connection = True
            elif chunked:
                self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, files: dict[str, Behaviour]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is no error."""


@contextmanager
def serving(files: dict[str, Behaviour]) -> Iterator[Callable[[str], str]]:
    """Serve files by their paths, such as ``/a.tar``; gives a function from a path to its URL."""
    server = _Server(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield lambda path: f"http://127.0.0.1:{server.server_port}{path}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
