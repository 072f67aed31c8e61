"""How a scan is doing, read from its run directory: while it runs, from any machine, and afterwards."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel

from raymia.errors import ConfigError
from raymia.scan.ledger import RUN_FILE, Ledger
from raymia.scan.monitoring import PROGRESS_FILE, Progress

SILENT_S = 300.0
"""A scan whose last sign of life is older is taken for stopped."""


class Status(BaseModel):
    """What is known of a run."""

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
    """Of the current or last attempt."""
    eta_s: float | None
    last_sign_of_life: str | None
    stages: dict[str, float]
    bottleneck: str | None


def read_status(run: str) -> Status:
    """Read a run's status.

    Args:
        run: run directory, a path or fsspec URL.

    Raises:
        ConfigError: there is no run.
    """
    ledger = Ledger(run)
    record = ledger.read_run()
    if record is None:
        raise ConfigError(f"{ledger.run}: no {RUN_FILE}; give a run directory made by `raymia scan`")
    state = ledger.peek()
    text = ledger.read_text(PROGRESS_FILE)
    progress = Progress.model_validate_json(text) if text else None
    finished = record["finished"] is not None
    # Before an attempt's first sign of life, while models load, there is only the time at which it began.
    signs = [record.get("attempted", record["started"]), *([progress.time] if progress else [])]
    alive = min(map(_age_s, signs)) < SILENT_S
    rate = progress.images_per_s if progress else None
    expected = record["expected"]
    left = None if expected is None else max(0, expected - state.samples)
    return Status(
        run=ledger.run,
        state="finished" if finished else "running" if alive else "stopped",
        started=record["started"],
        attempts=record.get("attempts", 1),
        units=state.units,
        samples=state.samples,
        expected=expected,
        by_reason=dict(state.by_reason.most_common()),
        quarantined=state.quarantined,
        images_per_s=rate,
        eta_s=None if finished or not rate or left is None or not alive else round(left / rate, 1),
        last_sign_of_life=progress.time if progress else None,
        stages=record["stages"] if finished else progress.stages if progress else {},
        bottleneck=record["bottleneck"]["stage"] if record.get("bottleneck") else None,
    )


def _age_s(time: str) -> float:
    return abs((datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds())
