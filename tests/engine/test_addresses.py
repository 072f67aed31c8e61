"""An address that is wrong, or at which nothing answers, is one line within half a minute."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
import yaml

from raymia.engine import addresses, start
from raymia.engine.addresses import dashboard_url, require_cluster, require_job_server
from raymia.errors import ConfigError, RaymiaError


@pytest.fixture
def closed() -> str:
    """An address at which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes connections and never says a word."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(16)
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def trickle(silent: str) -> Iterator[str]:
    """An address that answers a byte a moment, for ever."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            taken, _ = server.accept()
            with taken, suppress(OSError):  # whoever asked has gone
                for byte in b"HTTP/1.1 200 OK\r\nX-" + b"x" * 10_000:
                    if stop.wait(0.05):
                        return
                    taken.sendall(bytes([byte]))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        stop.set()


class Answers(http.server.BaseHTTPRequestHandler):
    """A web server that is no dashboard."""

    pages = {"/json/api/version": b'{"version": "1"}', "/list/api/version": b"[]", "/html/api/version": b"<html>"}

    def do_GET(self) -> None:
        content = self.pages.get(self.path)
        self.send_response(404 if content is None else 200)
        self.end_headers()
        self.wfile.write(content or b"<h1>not here</h1>")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def other_service() -> Iterator[str]:
    """A gRPC server that is no head of a cluster, as that of any other service of a node."""
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1:8265", "http://127.0.0.1:8265"),
        ("http://127.0.0.1:8265", "http://127.0.0.1:8265"),
        ("http://127.0.0.1:8265///", "http://127.0.0.1:8265"),
        ("https://ray.example.org/", "https://ray.example.org"),
        ("https://example.org/ray/", "https://example.org/ray"),
        ("head.example.org:8265", "http://head.example.org:8265"),
        ("[::1]:8265", "http://[::1]:8265"),
        (" localhost:8265 ", "http://localhost:8265"),
    ],
)
def test_a_dashboard_may_be_written_with_or_without_scheme_and_slash(address: str, url: str) -> None:
    assert dashboard_url(address) == url


@pytest.mark.parametrize(
    "address", ["auto", "local", "", "ray://h:10001", "os://h", "file:///tmp", "http://", "h:99999", "http://h:0", "a b:1"]
)
def test_what_is_no_address_of_a_dashboard_is_refused_with_what_one_looks_like(address: str) -> None:
    with pytest.raises(ConfigError, match=r"expected the dashboard's address, such as http://127\.0\.0\.1:8265"):
        dashboard_url(address)


def test_a_password_in_an_address_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        dashboard_url("ray://me:hunter2@host:1")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        require_job_server(dashboard_url("http://me:hunter2@127.0.0.1:1"))
    assert "hunter2" not in str(caught.value)


def test_what_is_no_job_server_is_said_in_a_line_and_soon(
    closed: str, silent: str, trickle: str, web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "PATIENCE_S", 0.5)
    expected = {
        f"http://{closed}": "no Ray job server answers",
        f"http://{silent}": "no answer within 0.5 s",
        f"http://{trickle}": "no answer within 0.5 s",
        f"http://{web}": "HTTP 404",
        f"http://{web}/json": "names no version of Ray",
        f"http://{web}/list": "names no version of Ray",
        f"http://{web}/html": "names no version of Ray",
        f"https://{web}": "no Ray job server answers",
        "http://nowhere.invalid:8265": "no Ray job server answers",
    }
    for url, said in expected.items():
        start = time.monotonic()
        with pytest.raises(ConfigError, match=said) as caught:
            require_job_server(url)
        assert time.monotonic() - start < 5
        assert "\n" not in str(caught.value)


def test_what_is_no_cluster_is_said_in_a_line_and_soon(
    closed: str, silent: str, web: str, other_service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "PATIENCE_S", 0.5)
    expected = {
        f"http://{web}": "hand the job in with `raymia submit JOB --address URL`",
        "https://user:hunter2@host": "a dashboard's address",
        closed: "no Ray cluster answers",
        silent: "no greeting within 0.5 s",
        web: "no greeting within 0.5 s",
        other_service: "the port of another service",
        "nowhere.invalid:6379": "no Ray cluster answers",
        "localhost": "not a cluster's address",
        "::1": "not a cluster's address",
        "127.0.0.1:99999": "not a cluster's address",
    }
    both = {address: said for address, said in expected.items() if "://" not in address and address != "localhost"}
    for address, said in {**expected, **{f"ray://{address}": said for address, said in both.items()}}.items():
        start = time.monotonic()
        with pytest.raises(ConfigError, match=said) as caught:
            require_cluster(address)
        assert time.monotonic() - start < 5
        assert "\n" not in str(caught.value)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionError("Could not find any running Ray instance.\nPlease specify --address"), ConfigError),
        (RuntimeError("Version mismatch:\n  the cluster has 2.1"), RaymiaError),
        (ValueError("no such address"), ConfigError),
        (KeyError("node"), RaymiaError),
    ],
)
def test_whatever_ray_makes_of_a_cluster_that_cannot_be_joined_is_one_line(
    error: Exception, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**options: object) -> None:
        raise error

    monkeypatch.setattr("ray.init", fail)
    with pytest.raises(kind, match="the Ray cluster at auto cannot be used: ") as caught:
        start.join("auto")
    assert "\n" not in str(caught.value)


def test_a_scan_and_a_submission_to_a_dead_cluster_end_with_code_2_within_half_a_minute(
    closed: str, silent: str, tmp_path: Path
) -> None:
    replica = {"model": "testbed-tiny", "resolution_px": 64}
    job = {"manifest": "testbed", "replica": replica, "attacks": {"random": {}}, "run": str(tmp_path / "run")}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    root = str(Path(__file__).parents[2])
    commands = {"scan": (silent, ()), "submit": (closed, ("--address", silent))}
    processes = {}
    started = time.monotonic()
    for command, (address, options) in commands.items():
        words = [sys.executable, "-m", "raymia", command, "job.yaml", *options]
        environment = {**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": root}
        processes[command] = subprocess.Popen(
            words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    for command, process in processes.items():
        _, errors = process.communicate(timeout=150)
        assert process.returncode == 2, errors
        assert len(errors.strip().splitlines()) == 1, errors
        assert silent in errors, "the address that was given, and not one of the environment"
        assert "no greeting within" in errors if command == "scan" else "no answer within" in errors
    assert time.monotonic() - started < 140, "a few seconds, and the imports of both on a busy machine"
