"""A local Ray is reachable from this machine alone; a scan on it ends soon after a signal, and keeps what it committed."""

from __future__ import annotations

import ipaddress
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from raymia.run.ledger import Ledger
from tests.conftest import good_members, tar_bytes

ROOT = Path(__file__).parents[2]
DEADLINE_S = 240.0


def start_scan(folder: Path) -> subprocess.Popen[str]:
    """A slow scan of 64 samples in units of 8, in a process of its own, with a Ray of its own."""
    (folder / "m0.tar").write_bytes(tar_bytes(good_members(64)))
    manifest = {"name": "set", "splits": [{"name": "all", "member": "unknown", "shards": ["m0.tar"]}]}
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    job = {
        "manifest": str(folder / "manifest.yaml"),
        "replica": {"model": "testbed-tiny", "dtype": "float32", "resolution_px": 64},
        "attacks": {"loss": {"timesteps": [100], "draws": 1}, "fragile": {"sleep_s": 1.0}},
        "pool": {"replicas": 1, "gpus_per_replica": 0, "batch_size": 4},
        "unit_size": 8,
        "run": str(folder / "run"),
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'faults' / 'plugin'}"
    return subprocess.Popen(
        [sys.executable, "-m", "raymia", "scan", str(folder / "job.yaml")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def listening(processes: list[psutil.Process]) -> dict[str, str]:
    """Addresses on which processes listen, with the command that does."""
    found = {}
    for process in processes:
        for connection in process.net_connections():
            if connection.status == psutil.CONN_LISTEN:
                found[connection.laddr.ip] = " ".join(process.cmdline())[:100]
    return found


def is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return ((parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None) or parsed).is_loopback


def test_a_local_scan_listens_on_loopback_alone_and_sigterm_ends_it_and_its_ray_with_committed_units_kept(
    tmp_path: Path,
) -> None:
    process = start_scan(tmp_path)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not list((tmp_path / "run" / "scores").rglob("*.parquet")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "no progress"
            time.sleep(0.1)
        children = psutil.Process(process.pid).children(recursive=True)
        found = listening([psutil.Process(process.pid), *children])
        assert found
        assert not {address: command for address, command in found.items() if not is_loopback(address)}
        os.kill(process.pid, signal.SIGTERM)
        signalled = time.monotonic()
        _, errors = process.communicate(timeout=60)
        assert time.monotonic() - signalled < 12, "ten seconds, and a busy machine's share"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert errors.count("raymia: stopped by SIGTERM") == 1
    assert "the same command goes on from there" in errors
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(children, timeout=15)
    assert not alive
    scores = Ledger(str(tmp_path / "run")).scores()
    assert scores.num_rows > 0
    assert scores.num_rows % 8 == 0, "whole units"
    assert not [path for path in (tmp_path / "run").rglob(".*") if path.is_file()], "no drafts"


STUBBORN = """
import sys, time
import typer
from raymia.cli import stopping
from raymia.cli.stopping import StoppableGroup

stopping.PATIENCE_S = float(sys.argv.pop(1))
app = typer.Typer(cls=StoppableGroup)
app.callback()(lambda: None)

@app.command()
def wait(deaf: bool = False) -> None:
    print("ready", flush=True)
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            if not deaf:
                raise ValueError("what a library makes of it") from None

stopping.listen()
app()
"""


@pytest.fixture
def stubborn(tmp_path: Path) -> list[str]:
    """The command of a process that does not let go when it is told to."""
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    return [sys.executable, str(tmp_path / "stubborn.py")]


def signalled(command: list[str], *numbers: int) -> tuple[int, str]:
    """Start, wait until it is ready, send signals; exit code and standard error."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.3)
            if process.poll() is not None:
                break
        try:
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    return process.returncode, errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_command_ends_in_one_line_with_the_shells_code_whatever_a_library_raises(
    stubborn: list[str], number: signal.Signals
) -> None:
    code, errors = signalled([*stubborn, "60", "wait"], number)
    assert code == 128 + number
    assert errors == f"raymia: stopped by {number.name}; what was written is whole, and the same command goes on from there\n"


def test_a_second_signal_ends_what_does_not_let_go_at_once(stubborn: list[str]) -> None:
    # On a busy machine two that come close together are one; what has ended is sent none.
    code, _ = signalled([*stubborn, "60", "wait", "--deaf"], *[signal.SIGINT] * 20)
    assert code == 128 + signal.SIGINT


def test_what_does_not_let_go_ends_after_a_while_all_the_same(stubborn: list[str]) -> None:
    code, errors = signalled([*stubborn, "0.2", "wait", "--deaf"], signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert "stopped by SIGTERM" in errors


def test_a_signal_that_is_to_be_ignored_is(stubborn: list[str]) -> None:
    code, errors = signalled(["nohup", *stubborn, "60", "wait"], signal.SIGHUP, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert "SIGHUP" not in errors
