"""Addresses of Ray clusters: what each kind looks like, and whether anything answers there, before Ray waits for minutes."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import threading
from urllib.parse import urlsplit

import aiohttp
import grpc

from raymia.documents import DocumentError, parse_json
from raymia.errors import ConfigError, first_line
from raymia.urls import public

PATIENCE_S = 8.0
"""For an answer; a cluster gives it in milliseconds."""
LONGEST_ANSWER = 2**16
NEEDS_TOKEN = (401, 403)
CLIENT = "ray://"
OF_DRIVERS, OF_CLIENTS = "/ray.rpc.NodeInfoGcsService/CheckAlive", "/ray.rpc.RayletDriver/ClusterInfo"
"""Questions that the head answers drivers on the cluster's nodes, and clients elsewhere."""
OF_THE_DASHBOARD = "the dashboard's address, such as http://127.0.0.1:8265 behind `ray dashboard` or `kubectl port-forward`"
OF_A_CLUSTER = "`auto` on a node of the cluster, HOST:6379 of its head, or ray://HOST:10001"


def dashboard_url(address: str) -> str:
    """The URL of a dashboard, of an address with or without ``http://`` and with or without a slash behind it.

    Raises:
        ConfigError: it is no such address.
    """
    url = address.strip() if "://" in address else f"http://{address.strip()}"
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine or re.search(r"\s", url) or not _is_place(url):
        raise ConfigError(f"--address {public(address)}: expected {OF_THE_DASHBOARD}")
    return url.split("?", 1)[0].split("#", 1)[0].rstrip("/")


def _is_place(url: str) -> bool:
    """Whether an address says where: a bare word such as `auto` does not."""
    host = url.partition("://")[2].partition("/")[0]
    return url.startswith("https") or ":" in host or "." in host or host == "localhost"


def require_job_server(url: str) -> None:
    """Ask a dashboard for its version, and wait no longer than `PATIENCE_S`.

    Raises:
        ConfigError: nothing answers, or something that is no Ray job server.
    """
    try:
        status, content = asyncio.run(_fetch(f"{url}/api/version"))
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        reason = f"no answer within {PATIENCE_S:g} s" if isinstance(error, TimeoutError) else first_line(error)
        raise ConfigError(f"--address {public(url)}: no Ray job server answers ({reason}); give {OF_THE_DASHBOARD}") from error
    if status in NEEDS_TOKEN:
        return  # Ray's client has the token, and says what is wrong with it
    if status != 200 or not _names_version(content):
        what = f"HTTP {status}" if status != 200 else "an answer that names no version of Ray"
        raise ConfigError(f"--address {public(url)}: what answers is no Ray job server ({what}); give {OF_THE_DASHBOARD}")


async def _fetch(url: str) -> tuple[int, bytes]:
    patience = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with aiohttp.ClientSession(timeout=patience, trust_env=True) as session, session.get(url) as answer:
        return answer.status, await answer.content.read(LONGEST_ANSWER)


def _names_version(content: bytes) -> bool:
    try:
        answer = parse_json(content)
    except DocumentError:
        return False
    return isinstance(answer, dict) and isinstance(answer.get("ray_version"), str)


def require_cluster(address: str) -> None:
    """Look whether a cluster may be at an address of RAY_ADDRESS, and wait no longer than `PATIENCE_S` a few times.

    `auto` is left to Ray, which looks on this machine and needs no patience.

    Raises:
        ConfigError: it is an address of another kind, or nothing answers there.
    """
    if address == "auto":
        return
    if address.startswith(("http://", "https://")):
        raise ConfigError(
            f"RAY_ADDRESS {public(address)}: a dashboard's address, behind which a scan cannot run; give {OF_A_CLUSTER}, or "
            "hand the job in with `raymia submit JOB --address URL`"
        )
    host, port = _host_and_port(address)
    try:
        socket.create_connection((host, port), PATIENCE_S).close()
    except (OSError, UnicodeError) as error:
        reason = f"no answer within {PATIENCE_S:g} s" if isinstance(error, TimeoutError) else first_line(error)
        raise ConfigError(f"RAY_ADDRESS {address}: no Ray cluster answers ({reason}); expected {OF_A_CLUSTER}") from error
    if os.environ.get("RAY_USE_TLS", "0") in ("0", ""):
        target = f"{host}:{port}" if ":" not in host else f"[{host}]:{port}"
        _require_service(address, target, OF_CLIENTS if address.startswith(CLIENT) else OF_DRIVERS)


def _host_and_port(address: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{address.removeprefix(CLIENT)}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise ConfigError(f"RAY_ADDRESS {public(address)}: not a cluster's address; expected {OF_A_CLUSTER}")
    return host, port


def _require_service(address: str, target: str, method: str) -> None:
    """Ask for the service that is wanted: a node has several gRPC servers.

    The wait is an event's, which no clock that jumps makes longer, as it would gRPC's own.
    """
    answered = threading.Event()
    with grpc.insecure_channel(target) as channel:
        call = channel.unary_unary(method).future(b"", wait_for_ready=True)
        call.add_done_callback(lambda _: answered.set())
        if not answered.wait(PATIENCE_S):
            call.cancel()
            raise ConfigError(
                f"RAY_ADDRESS {address}: what answers is no Ray cluster, or one that is stuck (no greeting within "
                f"{PATIENCE_S:g} s); expected {OF_A_CLUSTER}"
            )
        # Any other answer, such as that a token is lacking, is that of the right service, and Ray says more of it.
        if call.code() == grpc.StatusCode.UNIMPLEMENTED:
            raise ConfigError(
                f"RAY_ADDRESS {address}: the port of another service, where no cluster is joined; expected {OF_A_CLUSTER}"
            )
