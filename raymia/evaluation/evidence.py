"""What an audit of a body of works found, as a person reads it: the finding, each work, and what it must be read with."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel

from raymia.data.findings import ClaimsFinding, LookupFinding
from raymia.data.provider import ProviderClaims
from raymia.evaluation.audit import Audit, alarming, audit
from raymia.evaluation.extraction import Extraction
from raymia.evaluation.intervals import Interval, delong
from raymia.evaluation.roc import Floats
from raymia.evaluation.set_level import SIGNIFICANT, standing
from raymia.evaluation.signals import scored_rows, signals_of
from raymia.run.ledger import Ledger
from raymia.run.record import Access, ScanRecord

WORKS_SPLIT, CONTROL_SPLIT, GENERATED_SPLIT = "works", "control", "generated"
"""Splits of an audit."""
LOOKED_FILE, LISTED_FILE = "looked.json", "listed-{}.parquet"
"""In the folder of an audit: what was looked up before a score was computed; and all rows of lists that name images of a
split."""

Finding = Literal["indication", "explained", "no indication"]
"""The works score higher than the control; they do, but pictures that no model was asked about differ as much; they do not."""


class Lost(BaseModel):
    """Images that could not be packed."""

    split: str
    reason: str
    images: int


class Said(BaseModel):
    """What was looked up before a score was computed."""

    lists: list[str] = []
    """Public training lists that were looked through."""
    provider: ProviderClaims | None = None
    """What the model's provider says of its training data, where somebody wrote it down."""
    lookup: LookupFinding | None = None
    """What the lists name of works and control; none without a list."""
    works: ClaimsFinding | None = None
    """What the works say of their dates and rights."""
    control: ClaimsFinding | None = None


class Context(BaseModel):
    """What is known of an audit beside the scores of its scan."""

    lost: list[Lost] = []
    """Images that could not be packed, by reason."""
    twins: int = 0
    """Control images that show what a work shows, and were left out."""
    distilled: bool = False
    """Whether the model learnt from another model's answers, as far as its folder, name or sampler says so."""
    said: Said = Said()
    extraction: Extraction | None = None
    """Which works the model gave back when it was told their captions; none where it was not asked."""


class Work(BaseModel):
    """One work, among the control."""

    shard: str
    key: str
    caption: str
    standing: float
    """Mean of its primary signals, each in standard deviations of the control above the control's mean."""
    as_high: float
    """Share of the control images that stand at least as high."""


class Evidence(BaseModel):
    """Contents of evidence.json: what was asked, what was found, and what it must be read with."""

    format: int = 2
    subject: str
    """The model, by its name, or the service."""
    service: str | None
    adapters: list[str]
    reference: str | None
    """What the scores were held against: ``base``, a model, or none."""
    finding: Finding
    audit: Audit
    alarms: list[str]
    """Blind baselines that tell works from control."""
    works: list[Work]
    """The highest first."""
    quarantined: list[Lost]
    """Images that could not be scored, by reason."""
    context: Context
    controls: dict[str, Interval]
    """AUC of scores that must find nothing, works against control."""
    generated: Interval | None
    """AUC of the primary signals' mean, images that a model made in the works' style against control; none without such."""


def make_evidence(run: str, access: Access, context: Context, seed: int = 0) -> Evidence:
    """Read a finished scan of works and control.

    Args:
        run: run directory, with the splits ``works`` and ``control`` and, where there are such, ``generated``.
        access: signals of attacks that need more are left out.
        context: what is known beside the scores.
        seed: of the tests' draws.

    Raises:
        ConfigError, RaymiaError: see `raymia.evaluation.audit.audit`.
    """
    found = audit(f"{run}#{WORKS_SPLIT}", f"{run}#{CONTROL_SPLIT}", access, seed)
    ledger = Ledger(run)
    record = ledger.require_scan()
    table = scored_rows(ledger.frame())
    works, control, generated = (
        table[table["split"] == split].reset_index(drop=True) for split in (WORKS_SPLIT, CONTROL_SPLIT, GENERATED_SPLIT)
    )
    primary = [signal.name for signal in record.signals if signal.primary and signal.name in signals_of(access, record.signals)]
    ours, theirs = standing(works[primary].to_numpy(float), control[primary].to_numpy(float))
    alarms = alarming(found.blind)
    significant = found.test.p < SIGNIFICANT
    finding: Finding = "no indication" if not significant else "explained" if alarms else "indication"
    return Evidence(
        subject=record.job.subject,
        service=record.job.replica.service,
        adapters=[adapter.path for adapter in record.job.replica.adapters],
        reference=_reference(record),
        finding=finding,
        audit=found,
        alarms=alarms,
        works=_works(works, ours, theirs),
        quarantined=_quarantined(ledger),
        context=context,
        controls={
            signal.name: _against(works[signal.name].to_numpy(float), control[signal.name].to_numpy(float))
            for signal in record.signals
            if signal.access == "control" and signal.primary
        },
        generated=_of_generated(generated, control, primary),
    )


def _works(table: pd.DataFrame, ours: Floats, theirs: Floats) -> list[Work]:
    ordered = np.sort(theirs)
    works = [
        Work(
            shard=row.shard,
            key=row.key,
            caption=row.caption or "",
            standing=round(float(stands), 6),
            as_high=(len(ordered) - int(np.searchsorted(ordered, stands, side="left"))) / len(ordered),
        )
        for row, stands in zip(table.itertuples(), ours, strict=True)
    ]
    return sorted(works, key=lambda work: (-work.standing, work.shard, work.key))


def _quarantined(ledger: Ledger) -> list[Lost]:
    table = ledger.quarantine().to_pandas()
    counts = table.groupby(["split", "reason"], as_index=False).size() if len(table) else table
    return [Lost(split=row.split, reason=row.reason, images=row.size) for row in counts.itertuples(name="Counted")]


def _of_generated(generated: pd.DataFrame, control: pd.DataFrame, primary: list[str]) -> Interval | None:
    if len(generated) < 2:
        return None
    made, theirs = standing(generated[primary].to_numpy(float), control[primary].to_numpy(float))
    return _against(made, theirs)


def _against(ours: Floats, theirs: Floats) -> Interval:
    scores = np.concatenate([ours, theirs])
    return delong(scores, np.arange(len(scores)) < len(ours))


def _reference(record: ScanRecord) -> str | None:
    said = (record.job.model_extra or {}).get("reference")
    if said is None or isinstance(said, str):
        return said
    return str(said.get("model")) if isinstance(said, dict) else None
