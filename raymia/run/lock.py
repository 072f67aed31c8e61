"""One scan at a time for a run directory, by a lock that a crash does not leave behind and whose loss is noticed."""

from __future__ import annotations

import copy
import errno
import json
import logging
import os
import platform
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from raymia.data.unreadable import UnreadableError
from raymia.errors import ConfigError, RaymiaError, first_line
from raymia.run.storage import Storage, StorageError

log = logging.getLogger(__name__)

LOCK_FILE = "scan.lock"
BEAT_S = 10.0
"""Seconds between two renewals of a lease."""
PATIENCE_S = 35.0
"""A lease that its holder has not renewed for so long, by the watcher's own clock, is free to take."""
CHECK_S = 2.0
"""Seconds for which a holder trusts in what it has read of its lease, where nothing is finished."""
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
"""Numbers of the operating system's errors that mean that a file system has no locks."""
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""A clock that goes on while the machine sleeps, where there is one."""


class LostLeaseError(RaymiaError):
    """Another scan has taken the run over; this one has stopped writing."""


class RunLock:
    """A lock on a run directory that a scan holds while it runs.

    On a local disk the operating system holds it, and lets go with the process. On other storage it is a lease: a file
    that its holder renews, and that others watch before they take it over. No two machines' clocks are compared.

    A holder that was stopped may be overtaken. While the lock is held it guards the storage: whatever is written or removed
    there is preceded by a look at the lock, and once the lock is lost nothing is changed any more.
    """

    def __init__(self, storage: Storage, beat_s: float = BEAT_S, patience_s: float = PATIENCE_S) -> None:
        """Make the lock; it is taken when the block begins.

        Args:
            storage: the run directory, which exists; guarded within the block.
            beat_s: seconds between renewals.
            patience_s: seconds to watch another's lease; several times `beat_s`.
        """
        self._guarded = storage
        # The lock's own file is written whoever holds the lock.
        self._storage = copy.copy(storage)
        self._storage.guard = None
        self._beat_s = beat_s
        self._patience_s = patience_s
        self._owner = f"process {os.getpid()} on {platform.node()}"
        self._token = uuid.uuid4().hex
        self._file: FileLock | None = None
        self._inode: tuple[int, int] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost: LostLeaseError | None = None
        self._failure: Exception | None = None
        # When the lease was last renewed and last looked at, by this process's clock.
        self._renewed = self._looked = 0.0
        self._beat = 0

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            ConfigError: another scan holds it.
        """
        if self._storage.local:
            self._take_file()
        else:
            self._take_lease()
        self._guarded.guard = self.check
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._guarded.guard = None
        if self._file is not None:
            self._file.release()
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            try:
                if self._holder()[0] == self._token:
                    self._storage.remove([LOCK_FILE])
            except StorageError as failure:
                log.warning("the lock stays until others have watched it for %.0f s: %s", self._patience_s, failure)

    def check(self, anew: bool = True) -> None:
        """Look whether the lock is still held.

        Args:
            anew: look now; without, a look of a moment ago is enough.

        Raises:
            LostLeaseError: it is not.
            StorageError: that cannot be found out.
        """
        if self._lost is not None:
            raise self._lost
        if self._inode is not None:
            self._check_file()
        elif anew or _now() - self._looked > CHECK_S:
            self._check_lease()

    def _check_file(self) -> None:
        try:
            found = Path(self._storage.path(LOCK_FILE)).stat()
        except OSError as error:
            raise self._lose(f"its lock file is gone ({error.strerror})") from error
        if (found.st_dev, found.st_ino) != self._inode:
            raise self._lose("its lock file was exchanged")

    def _check_lease(self) -> None:
        now = _now()
        token, owner = self._holder()
        if token != self._token:
            raise self._lose(f"{owner or 'another scan'} has taken it over, as its lease was not renewed in time")
        if now - self._renewed > self._patience_s:
            # The renewing thread could not, and others may take the lease at any moment: renew it, or give up.
            try:
                self._renew()
            except StorageError as error:
                because = first_line(self._failure or error)
                raise self._lose(f"its lease could not be renewed for {now - self._renewed:.0f} s ({because})") from error
        self._looked = now

    def _lose(self, because: str) -> LostLeaseError:
        self._lost = self._lost or LostLeaseError(
            f"run {self._storage.url}: this scan no longer holds the run: {because}. It has stopped writing; what it committed "
            "before is kept. Wait for the other scan, if there is one, or run the same command again to go on"
        )
        return self._lost

    def _take_file(self) -> None:
        path = Path(self._storage.path(LOCK_FILE))
        file = FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False)
        try:
            file.acquire()
        except Timeout as error:
            raise ConfigError(self._refusal(_text(path))) from error
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in WITHOUT_LOCKS:
                raise ConfigError(f"run {self._storage.url}: {LOCK_FILE} cannot be locked ({error.strerror})") from error
            self._take_lease()  # a mounted file system without locks
            return
        path.write_text(self._owner)
        self._file = file
        found = path.stat()
        self._inode = found.st_dev, found.st_ino

    def _take_lease(self) -> None:
        before = self._storage.read(LOCK_FILE)
        if before is not None:
            log.info("%s is locked; watching for %.0f s whether its holder is alive", self._storage.url, self._patience_s)
            self._watch(before)
        self._renew()
        # Of several that take a lease over at once, the last to write has it.
        time.sleep(min(1.0, self._beat_s / 4) if before is not None else 0.0)
        token, owner = self._holder()
        if token != self._token:
            raise ConfigError(self._refusal(owner))
        self._looked = _now()
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
        """Renew the lease until the lock is let go; what goes wrong here is raised where something is written."""
        while not self._stop.wait(self._beat_s):
            try:
                self._check_lease()
                self._renew()
                self._failure = None
            except LostLeaseError as error:
                log.error("%s", error)
                return
            except (StorageError, UnreadableError) as error:
                self._failure = error
                log.warning("the lease was not renewed, and is tried again: %s", error)
            except Exception as error:  # noqa: BLE001 - a thread's error is seen by nobody; whoever writes next raises it
                self._failure = error
                self._lose(f"the thread that renews its lease ended: {type(error).__name__}: {first_line(error)}")
                return

    def _renew(self) -> None:
        started = _now()
        self._beat += 1
        content = {"token": self._token, "owner": self._owner, "beat": self._beat}
        self._storage.write(LOCK_FILE, json.dumps(content).encode())
        self._renewed = started

    def _holder(self) -> tuple[str, str]:
        try:
            content = json.loads(self._storage.read(LOCK_FILE) or b"{}")
        except (ValueError, RecursionError):
            content = {}
        content = content if isinstance(content, dict) else {}
        return str(content.get("token", "")), str(content.get("owner", "another scan"))

    def _refusal(self, holder: str) -> str:
        return (
            f"run {self._storage.url}: {holder or 'another scan'} is writing it; wait for that scan, stop it, or choose "
            "another run directory with --run"
        )


def _now() -> float:
    return time.clock_gettime(CLOCK)


def _text(path: Path) -> str:
    try:
        return " ".join(path.read_text(errors="replace")[:200].split())
    except OSError:
        return ""
