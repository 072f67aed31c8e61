"""What became of each image on its way from a list to a score, and whether the splits lost theirs alike.

A data set whose members vanished at another rate, or for another reason, than its non-members is no longer the draw that it
was: what is left differs by more than membership.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel
from scipy.stats import chi2_contingency, fisher_exact

from raymia.data.manifest import load_manifest, within
from raymia.errors import ConfigError, first_line
from raymia.evaluation.intervals import holm
from raymia.run.ledger import Ledger

STAGES = ("fetch", "read", "decode", "score")
"""Where a sample may be lost, in order."""
REASONS_TESTED = 12
"""The most frequent reasons; rarer ones are counted and not tested."""
SMALL = 5
"""Expected cell counts below this take Fisher's exact test, where there are two splits, instead of chi-squared."""
ALARM = 0.05

SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("shard", pa.string()),
        ("key", pa.string()),
        ("source", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
"""A row per image that was attempted; `stage` and `reason` are null for one that was packed."""

FETCH_REASONS = {
    r"HTTP Error (\d{3})": r"http_\1",
    r"timed? ?out": "timeout",
    r"Name or service|getaddrinfo|name resolution|nodename": "no_such_host",
    r"certificate|SSL|TLS": "tls",
    r"refused|reset|unreachable|disconnected": "no_connection",
}


class SplitAttrition(BaseModel):
    """How many images of a split got how far."""

    split: str
    member: bool | None
    attempted: int
    fetched: int
    decoded: int
    scored: int | None
    """None without a run."""
    lost: dict[str, int]
    """By reason, most frequent first."""


class LossTest(BaseModel):
    """Whether the splits lost samples at different rates."""

    reason: str
    """``any``, or one reason."""
    lost: dict[str, int]
    share: dict[str, float]
    p_value: float
    p_holm: float
    test: str


class Attrition(BaseModel):
    """The splits' losses, and tests of whether they are alike."""

    splits: list[SplitAttrition]
    tests: list[LossTest]
    statement: str


def fetch_reason(message: str | None) -> str:
    """A short fixed word for a downloader's message."""
    for pattern, reason in FETCH_REASONS.items():
        found = re.search(pattern, message or "", re.IGNORECASE)
        if found:
            return found.expand(reason)
    return "download_failed"


def attrition(source: str, run: str | None = None) -> Attrition:
    """Follow the samples of a manifest.

    Args:
        source: a manifest that `raymia data pack` made.
        run: a scan of it, for the samples that were lost there.

    Raises:
        ConfigError: the manifest names no attrition table, or the run is none of it.
    """
    manifest, folder = load_manifest(source)
    if manifest.attrition is None:
        raise ConfigError(f"manifest {source}: names no `attrition` table; `raymia data pack` writes one")
    table = read_attrition(within(folder, manifest.attrition))
    scored: dict[str, int] | None = None
    if run is not None:
        table, scored = _with_run(table, Ledger(run), [split.name for split in manifest.splits])
    labels = {split.name: split.label for split in manifest.splits}
    return analyse(table, labels, scored)


def read_attrition(path: str) -> pd.DataFrame:
    """Read the table that `raymia data pack` writes.

    Raises:
        ConfigError: it cannot be read, or lacks a column.
    """
    try:
        with fsspec.open(path, "rb") as stream:
            table = pq.read_table(io.BytesIO(stream.read()))
        frame: pd.DataFrame = table.select(SCHEMA.names).to_pandas()
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise ConfigError(f"attrition {path}: cannot be read ({first_line(error)})") from error
    return frame


def analyse(table: pd.DataFrame, labels: Mapping[str, bool | None], scored: Mapping[str, int] | None = None) -> Attrition:
    """Count and test.

    Args:
        table: columns of `SCHEMA`, a row per attempted image.
        labels: membership by split.
        scored: samples that a scan scored, by split; then the table's losses include the scan's.
    """
    splits = []
    for split, part in table.groupby("split", sort=False):
        at_stage = part["stage"].value_counts()
        fetched = len(part) - int(at_stage.get("fetch", 0)) - int(at_stage.get("read", 0))
        splits.append(
            SplitAttrition(
                split=str(split),
                member=labels.get(str(split)),
                attempted=len(part),
                fetched=fetched,
                decoded=fetched - int(at_stage.get("decode", 0)),
                scored=None if scored is None else int(scored.get(str(split), 0)),
                lost=dict(Counter(part["reason"].dropna()).most_common()),
            )
        )
    tests = _tests(splits)
    return Attrition(splits=splits, tests=tests, statement=_statement(splits, tests))


def _tests(splits: list[SplitAttrition]) -> list[LossTest]:
    if len(splits) < 2:
        return []
    totals = pd.DataFrame([split.lost for split in splits]).sum().sort_values(ascending=False)
    lost = {"any": [sum(split.lost.values()) for split in splits]}
    lost |= {str(reason): [split.lost.get(str(reason), 0) for split in splits] for reason in totals.index[:REASONS_TESTED]}
    attempted = np.array([split.attempted for split in splits])
    found = {reason: _test(np.array(counts), attempted) for reason, counts in lost.items()}
    corrected = holm({reason: p_value for reason, (p_value, _) in found.items()})
    names = [split.split for split in splits]
    return [
        LossTest(
            reason=reason,
            lost=dict(zip(names, lost[reason], strict=True)),
            share=dict(zip(names, (np.array(lost[reason]) / attempted).tolist(), strict=True)),
            p_value=p_value,
            p_holm=corrected[reason],
            test=test,
        )
        for reason, (p_value, test) in found.items()
    ]


def _test(lost: np.ndarray, attempted: np.ndarray) -> tuple[float, str]:
    kept = attempted - lost
    if not lost.any() or not kept.any():
        return 1.0, "none"
    counts = np.stack([lost, kept])
    expected = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
    if counts.shape[1] == 2 and expected.min() < SMALL:
        return float(fisher_exact(counts).pvalue), "Fisher"
    return float(chi2_contingency(counts).pvalue), "chi-squared"


def _statement(splits: list[SplitAttrition], tests: list[LossTest]) -> str:
    if not tests:
        return "One split: nothing to compare."
    shares = ", ".join(f"{split} {share:.1%}" for split, share in tests[0].share.items())
    alarms = [test.reason for test in tests[1:] if test.p_holm < ALARM]
    if tests[0].p_holm < ALARM:
        by = f", above all by {', '.join(alarms)}" if alarms else ""
        return f"The splits lost samples at different rates ({shares}){by}: what is left need not be the draw that it was."
    if alarms:
        return f"The splits lost about as many samples ({shares}), but for different reasons: {', '.join(alarms)}."
    return f"No sign that the splits lost samples at different rates ({shares})."


def _with_run(table: pd.DataFrame, ledger: Ledger, splits: list[str]) -> tuple[pd.DataFrame, dict[str, int]]:
    known = [split.name for split in ledger.require_run().manifest.splits]
    if not set(splits) & set(known):
        raise ConfigError(f"{ledger.run}: a scan of the splits {', '.join(known)}, none of which is in this manifest")
    quarantine = ledger.quarantine().to_pandas()
    lost = quarantine.set_index(["split", "key"])["reason"]
    lost = lost[~lost.index.duplicated()]
    index = pd.MultiIndex.from_frame(table[["split", "key"]])
    here = table["reason"].isna().to_numpy() & index.isin(lost.index)
    table = table.copy()
    table.loc[here, "reason"] = lost.reindex(index[here]).to_numpy()
    table.loc[here, "stage"] = "score"
    scores: Any = ledger.scores(["split"]).column("split").to_pandas().value_counts()
    return table, {str(split): int(count) for split, count in scores.items()}
