"""`make fuzz`: tries made-up and damaged inputs for as long as is asked, and prints the seed of every fault it finds."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

TURN_S = 5.0
"""For which one target is tried before the next has its turn."""


def fuzz(targets: list[Target], seed: str, seconds: float) -> list[str]:
    """Try inputs of each target in turn; return the seed and the trace of every input at which one failed."""
    faults: list[str] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for target in targets:
            turn = min(deadline, time.monotonic() + TURN_S)
            while time.monotonic() < turn:
                faults += once(target, f"{seed}:{target.name}:{target.tried}")
    return faults


def once(target: Target, seed: str) -> list[str]:
    """Try one input, which follows from its seed alone."""
    target.tried += 1
    try:
        target.once(random.Random(seed))  # noqa: S311 - the same seed must give the same input
    except Exception:  # noqa: BLE001 - whatever it is, it is what is looked for
        return [f"seed {seed}\n{traceback.format_exc()}"]
    return []


def main() -> int:
    """Run from the command line; the exit code is 1 where a fault was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0, help="how long")
    parser.add_argument("--seed", default="0", help="from which all inputs follow")
    parser.add_argument("--only", choices=[kind.name for kind in TARGETS], help="one target")
    parser.add_argument("--again", metavar="SEED", help="the seed of one input, as a fault was printed with: try that alone")
    arguments = parser.parse_args()
    only = arguments.again.split(":")[-2] if arguments.again else arguments.only
    with tempfile.TemporaryDirectory() as folder:
        targets = [kind(_below(folder, kind.name)) for kind in TARGETS if only in (None, kind.name)]
        again = arguments.again
        faults = once(targets[0], again) if again else fuzz(targets, arguments.seed, arguments.seconds)
    for fault in faults:
        print(fault)  # noqa: T201
    for target in targets:
        print(f"{target.name}: {target.tried} inputs, {target.refusals} refusals in words")  # noqa: T201
    print(f"{len(faults)} faults, seed {arguments.seed}")  # noqa: T201
    return 1 if faults else 0


def _below(folder: str, name: str) -> Path:
    path = Path(folder) / name
    path.mkdir()
    return path


if __name__ == "__main__":
    sys.exit(main())
