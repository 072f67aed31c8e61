"""`make soak`: commands killed at random moments and run again until they are done, and what is then left.

It must be as if nothing had been. Every command runs as a person runs it, on a Ray of its own.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

PER_SIDE = 120
VOLATILE = ("run.json", "progress.json", "scan.lock")
"""Files that hold times, attempts or a process."""
END_S = 10.0
"""Seconds within which SIGTERM and SIGINT end a command."""


@dataclass(frozen=True)
class Case:
    """A command.

    Attributes:
        words: its arguments, given the folder that it writes.
        prepare: fills the folder before the first attempt.
    """

    words: Callable[[Path], list[str]]
    prepare: Callable[[Path], None] = lambda _: None


def raymia(words: list[str]) -> subprocess.Popen[str]:
    """A command that has begun, at the head of a group of processes of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-m", "raymia", *words],
        env=environment | {"OMP_WAIT_POLICY": "PASSIVE"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finished(words: list[str]) -> float:
    """Run a command to its end; return how many seconds it took."""
    start = time.monotonic()
    process = raymia(words)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return time.monotonic() - start


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder that is the same whenever it is made."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in VOLATILE)
    return {str(path.relative_to(folder)): path.read_bytes().replace(str(folder).encode(), b"OUT") for path in files}


def kill(case: Case, folder: Path, times: int, rng: random.Random, how: signal.Signals = signal.SIGKILL) -> list[str]:
    """Kill a command so many times; return in what its files then differ from those of an undisturbed one."""
    # In a folder of the same name: a data set goes by it.
    expected, duration = _undisturbed(case, folder / "undisturbed" / "out")
    differing: list[str] = []
    killed, begun = 0, 0
    out = folder / "out"
    while killed < times:
        if not out.exists():
            begun += 1
            out.mkdir()
            case.prepare(out)
        process = raymia(case.words(out))
        try:
            process.wait(rng.uniform(0.0, duration))
        except subprocess.TimeoutExpired:
            killed += 1
            differing += _signal(process, how)
            continue
        output, _ = process.communicate()
        differing += [f"ended by itself with {process.returncode}: {output}"] if process.returncode else []
        differing += _differing(contents(out), expected)
        shutil.rmtree(out)
    if out.exists():
        finished(case.words(out))
        differing += _differing(contents(out), expected)
        shutil.rmtree(out)
    print(f"  {killed} x {how.name} over {begun} beginnings, undisturbed {duration:.0f} s", flush=True)  # noqa: T201
    return differing


def _undisturbed(case: Case, folder: Path) -> tuple[dict[str, bytes], float]:
    folder.mkdir(parents=True)
    case.prepare(folder)
    duration = finished(case.words(folder))
    return contents(folder), duration


def _signal(process: subprocess.Popen[str], how: signal.Signals) -> list[str]:
    start = time.monotonic()
    process.send_signal(how)
    output, _ = process.communicate()
    took = time.monotonic() - start
    if how == signal.SIGKILL:
        return []
    wrong = [f"{how.name} took {took:.1f} s"] if took > END_S else []
    wrong += [] if process.returncode == 128 + how else [f"{how.name}: exit code {process.returncode}: {output}"]
    return wrong + ([f"{how.name}: a traceback: {output}"] if "Traceback" in output else [])


def _differing(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """Names of the files that are missing, left over or different."""
    return [f"differs: {name}" for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]


class Cases:
    """The commands, over one small data set with features and a scan."""

    def __init__(self, folder: Path) -> None:
        """Make the data set, below an empty folder."""
        self._pictures = folder / "pictures"
        _make_pictures(self._pictures)
        self._packed = folder / "packed"
        finished(self._pack(self._packed))
        self._manifest = self._packed / "manifest.yaml"
        self._plain = folder / "plain"
        shutil.copytree(self._packed, self._plain)
        finished(["data", "embed", str(self._manifest), "--clip", "testbed", "--replicas", "1"])
        self._run = folder / "run"
        finished(self._scan(self._run))
        self.all = {
            "scan": Case(self._scan),
            "evaluate": Case(lambda out: ["evaluate", str(out)], self._copy(self._run)),
            "pack": Case(self._pack),
            "embed": Case(self._embed, self._copy(self._plain)),
            "dedup": Case(self._on_features("dedup", "--max-distance", "0.01")),
            "match": Case(self._on_features("match", "--target-auc", "1")),
        }

    def _pack(self, out: Path) -> list[str]:
        sides = ["--member", str(self._pictures / "theirs"), "--non-member", str(self._pictures / "others")]
        return ["data", "pack", *sides, "--out", str(out), "--per-shard", "20"]

    def _scan(self, out: Path) -> list[str]:
        job = {
            "manifest": str(self._manifest),
            "replica": {"model": "testbed-tiny", "dtype": "float32", "resolution_px": 64},
            "attacks": {"loss": {"timesteps": [100, 200], "draws": 2}, "random": {}},
            "pool": {"replicas": 1, "gpus_per_replica": 0, "batch_size": 4},
            "unit_size": 8,
        }
        path = out.parent / "job.yaml"
        path.write_text(yaml.safe_dump(job))
        return ["scan", str(path), "--run", str(out)]

    def _embed(self, out: Path) -> list[str]:
        return ["data", "embed", str(out / "manifest.yaml"), "--clip", "testbed", "--replicas", "1"]

    def _on_features(self, command: str, *options: str) -> Callable[[Path], list[str]]:
        return lambda out: ["data", command, str(self._manifest), "--out", str(out), *options]

    @staticmethod
    def _copy(source: Path) -> Callable[[Path], None]:
        def copy(out: Path) -> None:
            shutil.copytree(source, out, dirs_exist_ok=True)

        return copy


def _make_pictures(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for side in ("theirs", "others"):
        (folder / side).mkdir(parents=True)
        for i in range(PER_SIDE):
            coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
            coarse.resize((80, 64), Image.Resampling.BICUBIC).save(folder / side / f"{i:03d}.jpg", quality=90)
            (folder / side / f"{i:03d}.txt").write_text(f"a picture of {rng.integers(100)}")


def main() -> int:
    """Run from the command line; the exit code is 1 where a file differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kills", description=__doc__)
    parser.add_argument("--only", help="one command")
    parser.add_argument("--times", type=int, help="kills of each command; by default 25 of a scan and 10 of the others")
    parser.add_argument("--signal", default="SIGKILL", choices=["SIGKILL", "SIGTERM", "SIGINT"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, case in Cases(Path(folder)).all.items():
            if arguments.only not in (None, name):
                continue
            print(name, flush=True)  # noqa: T201
            times = arguments.times or (25 if name == "scan" else 10)
            rng = random.Random(arguments.seed)  # noqa: S311 - moments that can be had again
            found = kill(case, Path(folder) / f"of {name}", times, rng, signal.Signals[arguments.signal])
            print(*(f"  {line}" for line in found or ["nothing differs"]), sep="\n", flush=True)  # noqa: T201
            faults += len(found)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
