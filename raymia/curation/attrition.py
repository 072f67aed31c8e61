"""What became of each image on its way from a list to a score, and whether the splits lost theirs alike.

A data set whose members vanished at another rate, or for another reason, than its non-members is no longer the draw that it
was: what is left differs by more than membership.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import BaseModel
from scipy.stats import chi2_contingency, fisher_exact

from raymia.data.manifest import load_manifest, within
from raymia.data.tables import read_table
from raymia.errors import ConfigError
from raymia.evaluation.intervals import holm
from raymia.run.ledger import Ledger

REASONS_TESTED = 12
"""The most frequent reasons; rarer ones are counted and not tested."""
ENDINGS_TOLD = 8
NOT_AN_IMAGE = "not_an_image"
SMALL_COUNT = 5
"""Expected cell counts below this take Fisher's exact test, where there are two splits, instead of chi-squared."""
ALARM_P_VALUE = 0.05
"""The splits lost samples at different rates where the corrected p-value is below this."""

ATTRITION_SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("shard", pa.string()),
        ("key", pa.string()),
        ("source", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("flags", pa.string()),
    ]
)
"""A row per image that was attempted. `stage` says where it was lost: ``fetch``, ``read``, ``decode`` or, in a scan, ``score``;
`stage` and `reason` are null for an image that was packed, whose `flags`, separated by commas, say what was missing or
repaired.

Rows of the stage ``list`` are what a source holds beside images: nothing that was attempted, but so that the table says of
every file what became of it. These, and what was lost before it had a place in a shard, have neither shard nor key."""
LISTED = "list"
NEWER_COLUMNS = ("flags",)
"""Columns that older tables lack."""

FETCH_REASONS = {
    r"HTTP Error (\d{3})": r"http_\1",
    r"timed? ?out": "timeout",
    r"Name or service|getaddrinfo|name resolution|nodename": "no_such_host",
    r"certificate|SSL|TLS": "tls",
    r"refused|reset|unreachable|disconnected": "no_connection",
}
"""Reasons by patterns of a downloader's messages; the first pattern that matches counts."""


class SplitAttrition(BaseModel):
    """How many images of a split got how far."""

    split: str
    member: bool | None
    attempted: int
    fetched: int
    decoded: int
    scored: int | None
    """Images that a scan scored; none where no run was given."""
    lost: dict[str, int]
    """Lost images by reason, the most frequent first."""
    passed_over: dict[str, int] = {}
    """What is no image of the source and was not attempted, by reason, the most frequent first."""
    flags: dict[str, int] = {}
    """Packed images by what was missing or repaired, the most frequent first."""


class LossTest(BaseModel):
    """Whether the splits lost samples at different rates."""

    reason: str
    """The reason whose losses are compared, or ``any`` for losses of every kind."""
    lost: dict[str, int]
    """Lost images by split."""
    share: dict[str, float]
    """Share of the attempted images that was lost, by split."""
    p_value: float
    p_holm: float
    """The p-value after Holm's correction for the number of tests."""
    test: str
    """``Fisher``, ``chi-squared`` or, where nothing or everything was lost, ``none``."""


class Attrition(BaseModel):
    """The splits' losses, and tests of whether they are alike."""

    splits: list[SplitAttrition]
    tests: list[LossTest]
    statement: str
    """What the tests come to, in a sentence."""


def fetch_reason(message: str | None) -> str:
    """A short fixed word for a downloader's message."""
    for pattern, reason in FETCH_REASONS.items():
        matched = re.search(pattern, message or "", re.IGNORECASE)
        if matched:
            return matched.expand(reason)
    return "download_failed"


def attrition(source: str, run: str | None = None) -> Attrition:
    """Say how far the samples of each split got, and whether the splits lost theirs alike.

    Args:
        source: a manifest that `raymia data pack` made.
        run: run directory of a scan of it, for the samples that were lost there.

    Raises:
        ConfigError: the manifest names no attrition table, or the run is not a scan of its splits.
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
    """Read the table that `raymia data pack` writes, with the columns of `ATTRITION_SCHEMA`.

    Raises:
        ConfigError: the table cannot be read, or lacks a column.
    """
    columns = [name for name in ATTRITION_SCHEMA.names if name not in NEWER_COLUMNS]
    table = read_table(path, columns, "attrition", others=False, text=ATTRITION_SCHEMA.names)
    # Null and not NaN, as in the table itself.
    return table.reindex(columns=ATTRITION_SCHEMA.names).astype(object).where(lambda frame: frame.notna(), None)


def remarks(table: pa.Table) -> list[str]:
    """A line for each kind of thing that a source held and that is easily overlooked, with its count and an example.

    Args:
        table: columns of `ATTRITION_SCHEMA`.
    """
    columns = [table.column(name).to_pylist() for name in ("split", "source", "stage", "reason", "flags")]
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    endings: dict[tuple[str, str], Counter[str]] = {}
    for split, source, stage, reason, flags in zip(*columns, strict=True):
        for word in [reason] if stage == LISTED else (flags or "").split(","):
            if word:
                counts[split, word] += 1
                examples.setdefault((split, word), source)
                if word == NOT_AN_IMAGE:
                    endings.setdefault((split, word), Counter())[posixpath.splitext(source)[1].lower() or "no ending"] += 1
    lines = []
    for (split, word), count in counts.items():
        by_ending = ", ".join(
            f"{ending} {n:,}" for ending, n in endings.get((split, word), Counter()).most_common(ENDINGS_TOLD)
        )
        lines.append(f"{split}: {word} {count:,}{f' ({by_ending})' if by_ending else ''}, such as {examples[split, word]!r}")
    return lines


def analyse(table: pd.DataFrame, labels: Mapping[str, bool | None], scored: Mapping[str, int] | None = None) -> Attrition:
    """Count each split's images by how far they got, and test whether the splits lost theirs alike.

    Args:
        table: columns of `ATTRITION_SCHEMA`, a row per attempted image.
        labels: membership by split; none where it is unknown.
        scored: samples that a scan scored, by split; the table's losses then include the scan's.
    """
    splits = []
    for split, every in table.groupby("split", sort=False):
        part = every[every["stage"] != LISTED]
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
                passed_over=dict(Counter(every["reason"][every["stage"] == LISTED]).most_common()),
                flags=dict(Counter(_flags(part)).most_common()),
            )
        )
    tests = _tests(splits)
    return Attrition(splits=splits, tests=tests, statement=_statement(tests))


def _flags(table: pd.DataFrame) -> Iterator[str]:
    for flags in table["flags"].dropna() if "flags" in table else ():
        yield from filter(None, flags.split(","))


def _tests(splits: list[SplitAttrition]) -> list[LossTest]:
    """Tests of losses of any kind, and of the most frequent reasons."""
    splits = [split for split in splits if split.attempted]
    if len(splits) < 2:
        return []
    totals = pd.DataFrame([split.lost for split in splits]).sum().sort_values(ascending=False)
    lost = {"any": [sum(split.lost.values()) for split in splits]}
    lost |= {str(reason): [split.lost.get(str(reason), 0) for split in splits] for reason in totals.index[:REASONS_TESTED]}
    attempted = np.array([split.attempted for split in splits])
    results = {reason: _test(np.array(counts), attempted) for reason, counts in lost.items()}
    corrected = holm({reason: p_value for reason, (p_value, _) in results.items()})
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
        for reason, (p_value, test) in results.items()
    ]


def _test(lost: np.ndarray, attempted: np.ndarray) -> tuple[float, str]:
    """The p-value of equal rates of loss in all splits, and the name of the test."""
    remaining = attempted - lost
    if not lost.any() or not remaining.any():
        return 1.0, "none"
    counts = np.stack([lost, remaining])
    expected = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
    if counts.shape[1] == 2 and expected.min() < SMALL_COUNT:
        return float(fisher_exact(counts).pvalue), "Fisher"
    return float(chi2_contingency(counts).pvalue), "chi-squared"


def _statement(tests: list[LossTest]) -> str:
    if not tests:
        return "One split: nothing to compare."
    shares = ", ".join(f"{split} {share:.1%}" for split, share in tests[0].share.items())
    alarms = [test.reason for test in tests[1:] if test.p_holm < ALARM_P_VALUE]
    if tests[0].p_holm < ALARM_P_VALUE:
        by = f", above all by {', '.join(alarms)}" if alarms else ""
        return f"The splits lost samples at different rates ({shares}){by}: what is left need not be the draw that it was."
    if alarms:
        return f"The splits lost about as many samples ({shares}), but for different reasons: {', '.join(alarms)}."
    return f"No sign that the splits lost samples at different rates ({shares})."


def _with_run(table: pd.DataFrame, ledger: Ledger, splits: list[str]) -> tuple[pd.DataFrame, dict[str, int]]:
    """The table with a scan's losses added, and the samples that the scan scored, by split."""
    known = [split.name for split in ledger.require_run().manifest.splits]
    if not set(splits) & set(known):
        raise ConfigError(f"{ledger.run}: a scan of the splits {', '.join(known)}, none of which is in this manifest")
    quarantine = ledger.quarantine().to_pandas()
    lost = quarantine.set_index(["split", "key"])["reason"]
    lost = lost[~lost.index.duplicated()]
    index = pd.MultiIndex.from_frame(table[["split", "key"]])
    lost_in_scan = table["reason"].isna().to_numpy() & index.isin(lost.index)
    table = table.copy()
    table.loc[lost_in_scan, "reason"] = lost.reindex(index[lost_in_scan]).to_numpy()
    table.loc[lost_in_scan, "stage"] = "score"
    scores: Any = ledger.scores(["split"]).column("split").to_pandas().value_counts()
    return table, {str(split): int(count) for split, count in scores.items()}
