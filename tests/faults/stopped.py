"""`make soak`: two scans of one run on an S3 server, of which the first is stopped for a minute and then goes on.

The second takes the lease over and ends well; the first must find that out, end with its own error, and write nothing more.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

from raymia.run.ledger import Ledger
from tests.faults.conftest import PLUGIN, Scan, attacks, write_shards

STOPPED_S = 60.0


def main() -> int:
    """Run from the command line; the exit code is 1 where the outcome is wrong."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    _, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "PYTHONPATH": PLUGIN,
    }
    boto3.client("s3").create_bucket(Bucket="bucket")
    with tempfile.TemporaryDirectory() as folder:
        wrong = _trial(Path(folder) / "scan")
    server.stop()
    print(*(wrong or ["one ended with its error, and the table is right"]), sep="\n")  # noqa: T201
    return 1 if wrong else 0


def _trial(folder: Path) -> list[str]:
    write_shards(folder)
    slow = {"attacks": attacks(sleep_s=1.5), "pool": {"replicas": 1, "gpus_per_replica": 0, "batch_size": 4}}
    first, second = Scan(folder, ""), Scan(folder, "")
    first.start_apart(run="s3://bucket/run", **slow)
    ledger = Ledger("s3://bucket/run")
    while len(ledger.storage.names("scores", ".parquet")) < 3:
        time.sleep(0.5)
    assert first._process is not None
    os.kill(first._process.pid, signal.SIGSTOP)
    stopped = time.monotonic()
    second.start_apart(run="s3://bucket/run", **slow)
    time.sleep(STOPPED_S)
    os.kill(first._process.pid, signal.SIGCONT)
    print(f"continued after {time.monotonic() - stopped:.0f} s", flush=True)  # noqa: T201
    (first_code, first_said), (second_code, second_said) = first.end(), second.end()
    undisturbed = Scan(folder, "")
    undisturbed.start_apart(run=str(folder / "undisturbed"), **slow)
    code, said = undisturbed.end()
    print(f"first: {first_code}: {first_said.strip().splitlines()[-1]}")  # noqa: T201
    wrong = [] if code == 0 else [f"undisturbed: {said}"]
    wrong += [] if (first_code, second_code) == (1, 0) else [f"exit codes {first_code}, {second_code}", first_said, second_said]
    wrong += [] if ledger.scores().equals(Ledger(str(folder / "undisturbed")).scores()) else ["the tables differ"]
    return wrong


if __name__ == "__main__":
    sys.exit(main())
