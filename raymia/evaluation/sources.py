"""Data sets before any model is attacked: what blind baselines need, from a manifest or a plain table."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd

from raymia.data.clusters import join_clusters, load_clusters
from raymia.data.facts import read_facts
from raymia.data.manifest import load_manifest
from raymia.data.selection import shard_readers
from raymia.data.tables import is_table, read_table
from raymia.errors import ConfigError
from raymia.evaluation.metrics import evaluate_run, evaluate_table
from raymia.evaluation.results import Evaluation
from raymia.run.columns import GENERATED
from raymia.run.ledger import Ledger
from raymia.run.record import Counts
from raymia.shipped import NAMED

LABELS = {"true": True, "1": True, "1.0": True, "yes": True, "false": False, "0": False, "0.0": False, "no": False}


def evaluate_blind(source: str) -> Evaluation:
    """Evaluate blind baselines alone.

    Args:
        source: run directory, manifest (a YAML file or a shipped one's name), or table (Parquet or CSV).

    Raises:
        ConfigError: it is none of these, or faulty.
    """
    if is_table(source):
        return evaluate_table(read_captions(source), [], title=source)
    if source in NAMED.names() or source.endswith((".yaml", ".yml")):
        table, counts = read_samples(source)
        return evaluate_table(table, [], title=source, counts=counts)
    return evaluate_run(Ledger(source), blind_only=True)


def read_captions(source: str) -> pd.DataFrame:
    """A user's table of `caption` and `member`, with whatever else the blind baselines take.

    Args:
        source: Parquet or CSV.

    Raises:
        ConfigError: a column is missing, or a label is neither true nor false nor empty.
    """
    table = read_table(source, ("caption", "member"), "table")
    if GENERATED in table:
        table = table.assign(**{GENERATED: _labels(table[GENERATED], source)})
    return table.assign(caption=table["caption"].fillna("").astype(str), member=_labels(table["member"], source))


def read_samples(source: str) -> tuple[pd.DataFrame, Counts]:
    """Captions and image statistics of every sample of a manifest, read from its shards; no model, no Ray.

    Raises:
        ConfigError: the manifest is faulty.
    """
    manifest, folder = load_manifest(source)
    rows: list[dict[str, Any]] = []
    reasons: Counter[str] = Counter()
    for facts in read_facts(shard_readers(manifest, folder)):
        rows += facts.rows
        reasons += facts.reasons
    counts = Counts(
        read=len(rows) + reasons.total(),
        scored=len(rows),
        quarantined=reasons.total(),
        by_reason=dict(reasons.most_common()),
        flagged={},
        expected=manifest.samples,
    )
    if not rows:
        raise ConfigError(f"manifest {source}: no sample can be read ({', '.join(reasons)}); see `raymia data verify`")
    table = pd.DataFrame(rows).astype({"member": object})
    table[GENERATED] = table["split"].isin(manifest.generated)
    return join_clusters(table, load_clusters(manifest, folder)), counts


def _labels(values: pd.Series, source: str) -> pd.Series:
    words = values.astype("string").str.strip().str.lower()
    labels = words.map(LABELS).astype(object)
    wrong = words.notna() & (words != "") & ~words.isin(list(LABELS)) & (words != "unknown")
    if wrong.any():
        row = values[wrong]
        says = f"`{values.name}` is {row.iloc[0]!r} in row {row.index[0]}"
        raise ConfigError(f"table {source}: {says}; expected true or false, or nothing where it is unknown")
    return labels.where(labels.notna(), None)
