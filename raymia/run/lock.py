"""One scan at a time for a run directory, by a lock that a crash does not leave behind."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from raymia.errors import ConfigError
from raymia.run.storage import Storage

log = logging.getLogger(__name__)

LOCK_FILE = "scan.lock"
BEAT_S = 10.0
"""Seconds between two renewals of a lease."""
PATIENCE_S = 35.0
"""A lease that its holder has not renewed for so long, by the watcher's own clock, is free to take."""


class RunLock:
    """A lock on a run directory that a scan holds while it runs.

    On a local disk the operating system holds it, and lets go with the process. On other storage it is a lease: a file
    that its holder renews, and that others watch before they take it over. No two machines' clocks are compared.
    """

    def __init__(self, storage: Storage, beat_s: float = BEAT_S, patience_s: float = PATIENCE_S) -> None:
        """Make the lock; it is taken when the block begins.

        Args:
            storage: the run directory, which exists.
            beat_s: seconds between renewals.
            patience_s: seconds to watch another's lease; several times `beat_s`.
        """
        self._storage = storage
        self._beat_s = beat_s
        self._patience_s = patience_s
        self._owner = f"process {os.getpid()} on {platform.node()}"
        self._token = uuid.uuid4().hex
        self._file: IO[str] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            ConfigError: another scan holds it.
        """
        if self._storage.local:
            self._take_file()
        else:
            self._take_lease()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            if self._holder() == (self._token, self._owner):
                self._storage.remove([LOCK_FILE])

    def _take_file(self) -> None:
        file = Path(self._storage.path(LOCK_FILE)).open("a+")  # noqa: SIM115 - open for as long as the lock is held
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip()
            file.close()
            if isinstance(error, BlockingIOError):
                raise ConfigError(self._refusal(holder)) from error
            self._take_lease()  # a mounted file system without locks
            return
        self._file = file
        file.truncate(0)
        file.write(self._owner)
        file.flush()

    def _take_lease(self) -> None:
        before = self._storage.read(LOCK_FILE)
        if before is not None:
            log.info("%s is locked; watching for %.0f s whether its holder is alive", self._storage.url, self._patience_s)
            self._watch(before)
        self._renew(0)
        # Of several that take a lease over at once, the last to write has it.
        time.sleep(min(1.0, self._beat_s / 4) if before is not None else 0.0)
        token, owner = self._holder()
        if token != self._token:
            raise ConfigError(self._refusal(owner))
        self._thread = threading.Thread(target=self._keep, name="raymia lease", daemon=True)
        self._thread.start()

    def _watch(self, before: bytes) -> None:
        deadline = time.monotonic() + self._patience_s
        while time.monotonic() < deadline:
            time.sleep(min(1.0, self._patience_s / 10))
            now = self._storage.read(LOCK_FILE)
            if now is None:
                return
            if now != before:
                raise ConfigError(self._refusal(self._holder()[1]))

    def _keep(self) -> None:
        beat = 0
        while not self._stop.wait(self._beat_s):
            beat += 1
            self._renew(beat)

    def _renew(self, beat: int) -> None:
        content = {"token": self._token, "owner": self._owner, "beat": beat}
        self._storage.write(LOCK_FILE, json.dumps(content).encode())

    def _holder(self) -> tuple[str, str]:
        try:
            content = json.loads(self._storage.read(LOCK_FILE) or b"{}")
        except ValueError:
            content = {}
        return str(content.get("token", "")), str(content.get("owner", "another scan"))

    def _refusal(self, holder: str) -> str:
        return (
            f"run {self._storage.url}: {holder or 'another scan'} is writing it; wait for that scan, stop it, or choose "
            "another run directory with --run"
        )
