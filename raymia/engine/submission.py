"""Scans as jobs on a Ray cluster: hand in, follow, and end with the job's own exit code."""

from __future__ import annotations

import asyncio
import logging
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from ray.job_submission import JobStatus, JobSubmissionClient

from raymia.config import read_job
from raymia.errors import ConfigError, RaymiaError, first_line

log = logging.getLogger(__name__)

RUNTIME_ENV = Path("jobs/runtime_env.yaml")
"""File of Ray's runtime environment that is used where it is there and no other is named."""
RECONNECT_S = 2.0
LONGEST_RECONNECT_S = 30.0
GIVE_UP_AFTER = 60
"""Attempts in a row to reach a cluster that does not answer before following ends."""
CONNECTION_ERRORS = (aiohttp.ClientError, ConnectionError, RuntimeError, TimeoutError)


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


class Cluster:
    """A Ray cluster's job server."""

    def __init__(self, address: str) -> None:
        """Reach the job server.

        Args:
            address: address of the dashboard, such as ``http://127.0.0.1:8265``.

        Raises:
            ConfigError: nothing answers there.
        """
        self.address = address
        try:
            self._client = JobSubmissionClient(address)
        except (*CONNECTION_ERRORS, ValueError) as error:
            raise ConfigError(
                f"--address {address}: no Ray job server answers ({first_line(error)}); give the dashboard's address, such as "
                "http://127.0.0.1:8265 behind `ray dashboard` or `kubectl port-forward`"
            ) from error

    def submit(self, job_file: Path, overrides: Sequence[str], run: str | None, runtime_env: Path | None) -> Submitted:
        """Hand in a scan, or a sweep where the job file has a grid, as the next attempt of its name.

        An attempt that is still running is returned instead: two scans of one run would exclude each other.

        Args:
            job_file: a file within the working directory, which travels to the cluster.
            overrides: changes to the job as ``FIELD=VALUE``, as for `raymia scan`.
            run: run directory instead of the job's.
            runtime_env: YAML file of Ray's runtime environment; by default `RUNTIME_ENV` where it is there.

        Raises:
            ConfigError: the job file is faulty or stands outside the working directory.
            RaymiaError: the cluster refuses the job.
        """
        content = read_job(job_file, list(overrides), run)
        try:
            inside = job_file.resolve().relative_to(Path.cwd())
        except ValueError as error:
            raise ConfigError(f"{job_file}: expected below the working directory, which travels to the cluster") from error
        words = ["python", "-m", "raymia", "sweep" if "sweep" in content else "scan", inside.as_posix()]
        for override in overrides:
            words += ["--set", override]
        words += ["--run", run] if run else []
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", job_file.stem)
        attempts = self._attempts(name)
        running = [number for number, status in attempts.items() if not status.is_terminal()]
        if running:
            return Submitted(f"{name}-{max(running)}", max(running), already_running=True)
        attempt = max(attempts, default=0) + 1
        metadata = {"raymia_scan": name, "raymia_attempt": str(attempt)}
        job_id = self._hand_in(words, runtime_env, submission_id=f"{name}-{attempt}", metadata=metadata)
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
        asyncio.run(self._follow(job_id, write))
        info = self._client.get_job_info(job_id)
        if info.driver_exit_code is not None:
            return int(info.driver_exit_code)
        log.error("%s %s: %s", job_id, info.status.value.lower(), info.message)
        return 0 if info.status == JobStatus.SUCCEEDED else 1

    def examine(self, job_file: Path | None) -> str:
        """Run `raymia doctor` as a job on the cluster; return the checks as JSON.

        Args:
            job_file: a job to check, too; a file within the working directory.

        Raises:
            RaymiaError: `raymia doctor` did not run there.
        """
        words = ["python", "-m", "raymia", "doctor", "--cluster", "--json"]
        words += ["--job", job_file.as_posix()] if job_file else []
        job_id = self._hand_in(words, None)
        self.follow(job_id, lambda _: None)
        text: str = self._client.get_job_logs(job_id)
        checks = re.search(r"^\[\s*$.*^\]\s*$", text, re.DOTALL | re.MULTILINE)
        if checks is None:
            last = "\n".join(text.strip().splitlines()[-5:])
            raise RaymiaError(f"{self.address}: `raymia doctor` did not run on the cluster; its last words:\n{last}")
        return checks[0]

    def cancel(self, job_id: str) -> None:
        """Ask the cluster to stop a job."""
        self._client.stop_job(job_id)

    def _hand_in(self, words: Sequence[str], runtime_env: Path | None, **facts: Any) -> str:
        environment = load_runtime_env(runtime_env)
        try:
            return str(self._client.submit_job(entrypoint=shlex.join(words), runtime_env=environment, **facts))
        except CONNECTION_ERRORS as error:
            raise RaymiaError(f"{self.address}: the cluster refused the job: {first_line(error)}") from error

    def _attempts(self, name: str) -> dict[int, JobStatus]:
        """How each attempt at a scan stands, by its number."""
        attempts = {}
        for job in self._client.list_jobs():
            match = re.fullmatch(re.escape(name) + r"-(\d+)", job.submission_id or "")
            if match:
                attempts[int(match[1])] = job.status
        return attempts

    async def _follow(self, job_id: str, write: Callable[[str], None]) -> None:
        seen, failures = 0, 0
        while True:
            position, error = 0, None
            try:
                # The server begins at the start of the log whenever one connects.
                async for chunk in self._client.tail_job_logs(job_id):
                    fresh = chunk[max(0, seen - position) :]
                    position += len(chunk)
                    if fresh:
                        write(fresh)
                        seen = position
                    failures = 0
                status = self._client.get_job_status(job_id)
            except CONNECTION_ERRORS as caught:
                error, status = caught, None
            if status is not None and status.is_terminal():
                rest = self._client.get_job_logs(job_id)[seen:]
                if rest:
                    write(rest)
                return
            failures += 1
            if failures > GIVE_UP_AFTER:
                raise RaymiaError(f"{self.address}: no answer any more ({first_line(error)}); {job_id} may still be running")
            if error is not None:
                log.warning("connection to %s lost (%s); trying again", self.address, first_line(error))
            await asyncio.sleep(min(RECONNECT_S * failures, LONGEST_RECONNECT_S))


def load_runtime_env(path: Path | None) -> dict[str, Any]:
    """Ray's runtime environment from a YAML file; the working directory alone where there is no file.

    Raises:
        ConfigError: the file cannot be read as a map.
    """
    chosen = path or (RUNTIME_ENV if RUNTIME_ENV.is_file() else None)
    if chosen is None:
        return {"working_dir": "."}
    try:
        content = yaml.safe_load(chosen.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"--runtime-env {chosen}: cannot be read as YAML: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--runtime-env {chosen}: expected a map such as {{working_dir: .}}")
    return {"working_dir": ".", **content}
