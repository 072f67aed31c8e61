"""A server of images that does wrong what it is told to, on OpenAI's route with muse's fields; for error paths alone."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from raymia.services import calls, gate

Rule = Callable[[int, dict[str, Any]], str]
"""What is done with a request, by its number from 0 and its body: a name of `Handler`'s deeds."""


@dataclass
class Server:
    """What was asked and what is done.

    Attributes:
        rule: for the next requests.
        asked: body and headers of each request, in the order in which they came.
        most: that were answered at a time.
        seconds: that an image takes.
        together: requests that wait for each other, until so many are under way; none answers alone before.
    """

    url: str
    rule: Rule
    seconds: float = 0.0
    together: int = 0
    asked: list[tuple[dict[str, Any], dict[str, str]]] = field(default_factory=list)
    at_once: int = 0
    most: int = 0
    came: threading.Condition = field(default_factory=threading.Condition)

    def repeated(self) -> dict[str, int]:
        """Requests that came more than once, by their body."""
        return {body: n for body, n in Counter(json.dumps(body, sort_keys=True) for body, _ in self.asked).items() if n > 1}


def picture(body: dict[str, Any], size: tuple[int, int]) -> Image.Image:
    """A picture with detail, which the prompt, the seed and the image that is sent determine."""
    seed = hashlib.sha256(json.dumps([body.get(name) for name in ("prompt", "seed", "image", "strength")]).encode()).digest()
    pixels = np.random.default_rng(int.from_bytes(seed[:8], "big")).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _file(image: Image.Image, kind: str = "PNG") -> str:
    stream = io.BytesIO()
    image.save(stream, kind)
    return base64.b64encode(stream.getvalue()).decode()


class Handler(BaseHTTPRequestHandler):
    server: _Listening

    def do_POST(self) -> None:
        state = self.server.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with state.came:
            number = len(state.asked)
            state.asked.append((body, dict(self.headers)))
            state.at_once += 1
            state.most = max(state.most, state.at_once)
            state.came.notify_all()
            state.came.wait_for(lambda: state.most >= state.together, timeout=20.0)
        try:
            time.sleep(state.seconds)
            self.do(state.rule(number, body), body)
        finally:
            with state.came:
                state.at_once -= 1

    def do(self, deed: str, body: dict[str, Any]) -> None:
        width, height = map(int, body["size"].split("x"))
        image = picture(body, (width, height))
        deed, _, detail = deed.partition(":")
        files: dict[str, Callable[[], str]] = {
            "image": lambda: _file(image),
            "jpeg": lambda: _file(image, "JPEG"),
            "black": lambda: _file(Image.new("RGB", image.size)),
            "blurred": lambda: _file(image.resize((2, 2)).resize(image.size).filter(ImageFilter.GaussianBlur(width / 4))),
            "small": lambda: _file(image.resize((width // 2, height // 2))),
        }
        if deed in files:
            self.say(200, {"created": 0, "data": [{"b64_json": files[deed](), "revised_prompt": detail or body["prompt"]}]})
        elif deed == "half":
            whole = json.dumps({"data": [{"b64_json": _file(image)}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            self.wfile.write(whole[: len(whole) // 2])
            self.close_connection = True
        elif deed == "nonsense":
            self.say(200, {"data": []})
        elif deed == "endless":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b" " * 2**22)
        elif deed == "hang":
            time.sleep(float(detail))
            self.close_connection = True
        elif deed == "filter":
            error = {"code": "moderation_blocked", "message": "Your request was rejected by the safety system."}
            self.say(400, {"error": error})
        elif deed == "quota":
            error = {"message": "You exceeded your current quota.", "type": "insufficient_quota", "code": "insufficient_quota"}
            self.say(429, {"error": error})
        elif deed.startswith("3"):
            self.say(int(deed), {}, {"Location": detail})
        elif deed == "busy":
            self.say(429, {"error": {"message": "slow down"}}, {"Retry-After": detail} if detail else {})
        else:
            # A careless server sends the key back with its errors.
            told = f"{detail} {self.headers.get('Authorization', '')}".strip()
            self.say(int(deed), {"error": {"message": told}})

    def say(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        written = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(written)), "x-request-id": "r-1", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(written)

    def log_message(self, *_: object) -> None:
        pass


class _Listening(ThreadingHTTPServer):
    state: Server
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that went away is no error of the server."""


def wait_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries are those of a test."""
    for module, waits in (
        (calls, {"FIRST_WAIT_S": 0.01, "LONGEST_WAIT_S": 0.05}),
        (gate, {"FIRST_PAUSE_S": 0.05, "LONGEST_PAUSE_S": 0.2}),
    ):
        for name, seconds in waits.items():
            monkeypatch.setattr(module, name, seconds)


@contextmanager
def serving(rule: Rule = lambda number, body: "image", seconds: float = 0.0) -> Iterator[Server]:
    """A server on the loopback address, in threads of this process."""
    with _Listening(("127.0.0.1", 0), Handler) as listening:
        listening.state = Server(f"http://127.0.0.1:{listening.server_port}/v1", rule, seconds)
        threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield listening.state
        listening.shutdown()
