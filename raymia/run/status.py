"""How a scan is doing, read from its run directory: while it runs, from any machine, and afterwards."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ValidationError

from raymia.errors import RaymiaError, describe_validation
from raymia.run.ledger import Ledger
from raymia.run.record import PROGRESS_FILE, Progress, ScanRecord

MAX_PROGRESS_BYTES = 2**24
SILENT_S = 300.0
"""A scan whose last sign of life is older is taken for stopped."""


class Status(BaseModel):
    """How a run is doing."""

    run: str
    state: Literal["finished", "running", "stopped"]
    started: str
    attempts: int
    units: int
    samples: int
    expected: int | None
    by_reason: dict[str, int]
    quarantined: int
    images_per_s: float | None
    """Rate of the current or last attempt."""
    eta_s: float | None
    """Seconds until the run is done at that rate; none where it is not running, or the rate or the end is unknown."""
    last_sign_of_life: str | None
    """When progress.json was last written, in UTC."""
    stages: dict[str, float]
    """Seconds spent in each stage, over all processes."""
    bottleneck: str | None
    """The stage that the scan waited for, once that is known."""


def read_status(run: str) -> Status:
    """Read a run's status.

    Args:
        run: run directory, a path or fsspec URL.

    Raises:
        ConfigError: there is no run.
        RaymiaError: the run's files are damaged.
    """
    ledger = Ledger(run)
    record = ledger.require_run()
    ledger.check(record)
    tally = ledger.peek().tally
    progress = _progress(ledger)
    finished = record.finished is not None
    # Before an attempt's first sign of life, while models load, there is only the time at which it began.
    signs = [record.attempted or record.started, *([progress.time] if progress else [])]
    alive = min(map(_age_s, signs)) < SILENT_S
    rate = progress.images_per_s if progress else None
    left = None if record.expected is None else max(0, record.expected - tally.samples)
    stages = record.stages if finished and isinstance(record, ScanRecord) else progress.stages if progress else {}
    bottleneck = record.bottleneck if isinstance(record, ScanRecord) else None
    return Status(
        run=ledger.run,
        state="finished" if finished else "running" if alive else "stopped",
        started=record.started,
        attempts=record.attempts,
        units=tally.units,
        samples=tally.samples,
        expected=record.expected,
        by_reason=dict(tally.by_reason.most_common()),
        quarantined=tally.quarantined,
        images_per_s=rate,
        eta_s=None if finished or not rate or left is None or not alive else round(left / rate, 1),
        last_sign_of_life=progress.time if progress else None,
        stages=stages,
        bottleneck=bottleneck.stage if bottleneck else None,
    )


def _progress(ledger: Ledger) -> Progress | None:
    content = ledger.storage.read(PROGRESS_FILE, MAX_PROGRESS_BYTES)
    if not content:
        return None
    try:
        return Progress.model_validate_json(content)
    except ValidationError as error:
        raise RaymiaError(
            f"{ledger.run}/{PROGRESS_FILE}: cannot be read: {describe_validation(error, Progress)}; delete it: it tells of the "
            "scan's pace alone, and a scan that runs writes it again"
        ) from error


def _age_s(time: str) -> float:
    return abs((datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds())


def duration(seconds: float) -> str:
    """Seconds as text: ``H:MM:SS``, or ``M:SS`` below an hour."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
