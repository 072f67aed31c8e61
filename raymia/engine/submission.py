"""Scans as jobs on a Ray cluster: hand in, follow, and end with the job's own exit code."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import re
import shlex
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ray.job_submission import JobStatus, JobSubmissionClient

from raymia.documents import DocumentError, parse_yaml, read_document
from raymia.engine.addresses import dashboard_url, require_job_server
from raymia.engine.parcel import Parcel, make_parcel
from raymia.errors import ConfigError, RaymiaError, first_line
from raymia.urls import public, without_secrets

log = logging.getLogger(__name__)
for chatty in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
    logging.getLogger(chatty).setLevel(logging.WARNING)  # what is sent, and that a log has ended, raymia says itself

T = TypeVar("T")

RUNTIME_ENV = Path("jobs/runtime_env.yaml")
"""File of Ray's runtime environment that is used where it is there and no other is named."""
CONNECT_S, ANSWER_S = 10.0, 60.0
"""For the job server to take a connection, and for each answer of it: a package is stored before it is answered."""
RECONNECT_S = 2.0
LONGEST_RECONNECT_S = 30.0
GIVE_UP_AFTER = 60
"""Attempts in a row to reach a cluster that does not answer before following ends."""
QUIET_S = 300.0
"""Nothing may come of a log for so long before the connection is made anew: a dead one says nothing either."""
OVERRULING = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
"""Variables that Ray's client prefers to the address that it is given."""
LONGEST_STEM = 40


class NoAnswer(Exception):  # noqa: N818 - the state of a connection, caught where it is known what it means
    """The job server did not answer, or not as a job server does."""


@dataclass(frozen=True)
class Order:
    """A scan or sweep that a cluster is to run.

    Attributes:
        stem: what people call it: the job file's name.
        words: the command, run in the working directory there.
        does: what it does: run directory, model and all that changes a score, JSON-like.
    """

    stem: str
    words: tuple[str, ...]
    does: Any

    @property
    def digest(self) -> str:
        """Of what it does, whatever the job file is called."""
        return hashlib.sha256(json.dumps(without_secrets(self.does), sort_keys=True).encode()).hexdigest()[:8]

    @property
    def name(self) -> str:
        """What the cluster calls it: readable, and alike for the same work alone."""
        return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', self.stem)[:LONGEST_STEM]}-{self.digest}"


@dataclass(frozen=True)
class Submitted:
    """A job on the cluster.

    Attributes:
        job_id: Ray's name of the job.
        attempt: number of the attempt at this scan, from 1.
        already_running: whether the job was there before and has been left to run.
    """

    job_id: str
    attempt: int
    already_running: bool


class _Client(JobSubmissionClient):  # type: ignore[misc]
    """Ray's client, which by itself waits for an answer for ever."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, timeout=(CONNECT_S, ANSWER_S), **options)


class Cluster:
    """A Ray cluster's job server."""

    def __init__(self, address: str) -> None:
        """Reach the job server.

        Args:
            address: address of the dashboard, such as ``http://127.0.0.1:8265``, or without ``http://``. No variable of the
                environment overrules it.

        Raises:
            ConfigError: nothing answers there, or no Ray job server; within half a minute.
        """
        self._url = dashboard_url(address)
        self.address = public(self._url)
        require_job_server(self._url)
        try:
            with _without(OVERRULING):
                self._client = _Client(self._url)
        except Exception as error:
            raise ConfigError(f"--address {self.address}: no job can be handed in: {first_line(error)}") from error

    def submit(self, order: Order, environment: Mapping[str, Any], parcel: Parcel | None) -> Submitted:
        """Hand in a scan or a sweep as the next attempt at it.

        An attempt that is still running is returned instead: two scans of one run would exclude each other.

        Args:
            order: what is to be run.
            environment: Ray's runtime environment, see `load_runtime_env`.
            parcel: the files that travel; none where the working directory is elsewhere already.

        Raises:
            RaymiaError: the cluster refuses the job.
        """
        attempts = self._attempts(order.digest)
        running = [number for number, (_, status) in attempts.items() if not status.is_terminal()]
        if running:
            return Submitted(attempts[max(running)][0], max(running), already_running=True)
        attempt = max(attempts, default=0) + 1
        metadata = {"raymia_scan": order.name, "raymia_attempt": str(attempt)}
        job_id = f"{order.name}-{attempt}"
        self._hand_in(order.words, environment, parcel, submission_id=job_id, metadata=metadata)
        return Submitted(job_id, attempt, already_running=False)

    def follow(self, job_id: str, write: Callable[[str], None]) -> int:
        """Show the log of a job until it ends, through lost connections, each character once.

        Args:
            job_id: Ray's name of the job.
            write: shows a piece of the log.

        Returns:
            The driver's own exit code; 1 where it has none because the job was stopped or could not start.

        Raises:
            RaymiaError: the cluster has not answered for long.
        """
        try:
            asyncio.run(self._follow(job_id, write))
            info = _ask(lambda: self._client.get_job_info(job_id))
        except NoAnswer as error:
            raise RaymiaError(f"{self.address}: no answer any more ({error}); {job_id} may still be running") from error
        if info.driver_exit_code is not None:
            return int(info.driver_exit_code)
        log.error("%s %s: %s", job_id, info.status.value.lower(), info.message)
        return 0 if info.status == JobStatus.SUCCEEDED else 1

    def examine(self, job_file: str | None, environment: Mapping[str, Any], parcel: Parcel | None) -> str:
        """Run `raymia doctor` as a job on the cluster; return the checks as JSON.

        Args:
            job_file: a job to check, too; a file within the working directory.
            environment: see `submit`.
            parcel: see `submit`.

        Raises:
            RaymiaError: `raymia doctor` did not run there.
        """
        words = ["python", "-m", "raymia", "doctor", "--cluster", "--json"]
        job_id = self._hand_in([*words, "--job", job_file] if job_file else words, environment, parcel)
        said: list[str] = []
        self.follow(job_id, said.append)
        text = "".join(said)
        checks = re.search(r"^\[\s*$.*^\]\s*$", text, re.DOTALL | re.MULTILINE)
        if checks is None:
            last = " | ".join(text.strip().splitlines()[-5:])
            raise RaymiaError(f"{self.address}: `raymia doctor` did not run on the cluster; its last words: {last}")
        return checks[0]

    def cancel(self, job_id: str) -> None:
        """Ask the cluster to stop a job.

        Raises:
            RaymiaError: it does not answer.
        """
        try:
            _ask(lambda: self._client.stop_job(job_id))
        except NoAnswer as error:
            raise RaymiaError(f"{self.address}: {job_id} was not stopped: {error}") from error

    def _hand_in(self, words: Sequence[str], environment: Mapping[str, Any], parcel: Parcel | None, **facts: Any) -> str:
        with tempfile.TemporaryDirectory() as folder:
            sent = dict(environment)
            if parcel is not None:
                sent["working_dir"] = str(Path(folder) / "working_dir.zip")
                parcel.write_zip(Path(sent["working_dir"]))
            try:
                entrypoint = shlex.join(words)
                return str(_ask(lambda: self._client.submit_job(entrypoint=entrypoint, runtime_env=sent, **facts)))
            except NoAnswer as error:
                raise RaymiaError(f"{self.address}: the cluster refused the job: {error}") from error

    def _attempts(self, digest: str) -> dict[int, tuple[str, JobStatus]]:
        """How each attempt at the same work is called and stands, by its number."""
        attempts = {}
        try:
            jobs = _ask(self._client.list_jobs)
        except NoAnswer as error:
            raise RaymiaError(f"{self.address}: the cluster does not list its jobs: {error}") from error
        for job in jobs:
            match = re.fullmatch(rf".+-{digest}-(\d+)", job.submission_id or "")
            if match:
                attempts[int(match[1])] = (str(job.submission_id), job.status)
        return attempts

    async def _follow(self, job_id: str, write: Callable[[str], None]) -> None:
        seen, failures = 0, 0
        while True:
            position = 0
            try:
                # The server begins at the start of the log whenever one connects.
                async for chunk in self._pieces(job_id):
                    fresh = chunk[max(0, seen - position) :]
                    position += len(chunk)
                    if fresh:
                        write(fresh)
                        seen = position
                    failures = 0
                if _ask(lambda: self._client.get_job_status(job_id)).is_terminal():
                    rest = _ask(lambda: self._client.get_job_logs(job_id))[seen:]
                    if rest:
                        write(rest)
                    return
                failures = 0
            except NoAnswer as error:
                failures += 1
                if failures > GIVE_UP_AFTER:
                    raise
                log.warning("connection to %s lost (%s); trying again", self.address, error)
            await asyncio.sleep(min(RECONNECT_S * max(1, failures), LONGEST_RECONNECT_S))

    async def _pieces(self, job_id: str) -> AsyncIterator[str]:
        """The log of a job from its start, as it comes, until the connection ends or has been quiet for long."""
        pieces = aiter(self._client.tail_job_logs(job_id))
        while True:
            try:
                async with asyncio.timeout(QUIET_S):
                    piece = await anext(pieces)
            except (StopAsyncIteration, TimeoutError):
                return
            except Exception as error:
                raise NoAnswer(first_line(error)) from error
            yield piece


def _ask(question: Callable[[], T]) -> T:
    """Ask the job server something.

    Raises:
        NoAnswer: it did not answer, or not as a job server does.
    """
    try:
        return question()
    except Exception as error:
        raise NoAnswer(public(first_line(error))) from error


@contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    """Within this block variables of the environment are not there."""
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ |= before


def load_runtime_env(path: Path | None) -> tuple[dict[str, Any], Parcel | None]:
    """Ray's runtime environment from a YAML file, and the files that travel with it.

    Without a file the working directory alone travels. Whatever a file says, no secret does; see `raymia.engine.parcel`.

    Raises:
        ConfigError: the file cannot be read as a map, or what it names cannot travel.
    """
    chosen = path or (RUNTIME_ENV if RUNTIME_ENV.is_file() else None)
    content = {} if chosen is None else _read_map(chosen)
    folders = [module for module in content.get("py_modules") or () if Path(str(module)).is_dir()]
    if folders:
        raise ConfigError(
            f"--runtime-env {chosen}: py_modules: {folders[0]} is a folder; move it into the working directory, which is "
            "looked through for secrets, or give a wheel or a URL"
        )
    excludes = content.pop("excludes", None) or []
    if not isinstance(excludes, list) or not all(isinstance(pattern, str) for pattern in excludes):
        raise ConfigError(f"--runtime-env {chosen}: excludes: expected a list of patterns, such as [data, '*.tar']")
    folder = str(content.setdefault("working_dir", "."))
    if "://" in folder:
        return content, None
    if not Path(folder).is_dir():
        raise ConfigError(f"--runtime-env {chosen}: working_dir: {folder} is no folder; give a folder or a URL")
    return content, make_parcel(Path(folder), excludes)


def _read_map(path: Path) -> dict[str, Any]:
    try:
        content = parse_yaml(read_document(path))
    except OSError as error:
        raise ConfigError(f"--runtime-env {path}: cannot be read ({error.strerror})") from error
    except DocumentError as error:
        raise ConfigError(f"--runtime-env {path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--runtime-env {path}: expected a map such as {{working_dir: .}}")
    return content
