"""A model hub on this machine, as much of one as its client asks for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Answer = tuple[int, dict[str, str], bytes]


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as its client asks for: one repository, or one answer to everything."""

    folder: Path | None = None
    answer: Answer = (404, {}, b"")
    asked: list[str] = []

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self._send(*(self.answer if self.folder is None else self._of_repository(self.folder)))

    def _of_repository(self, folder: Path) -> Answer:
        path = self.path.partition("?")[0]
        files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
        if "/tree/" in path:
            entries = [
                {"type": "file", "path": name, "oid": COMMIT, "size": file.stat().st_size} for name, file in files.items()
            ]
            return 200, {}, json.dumps(entries).encode()
        if path.startswith("/api/"):
            return 200, {}, json.dumps({"id": "me/model", "sha": COMMIT, "siblings": []}).encode()
        _, _, place = path.partition("/resolve/")
        revision, _, name = place.partition("/")
        if revision not in (COMMIT, "main"):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if name not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{name}"'}, files[name].read_bytes()

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    class Own(Hub):
        asked: list[str] = []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    template = f"http://127.0.0.1:{server.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield Own
    server.shutdown()
    server.server_close()
