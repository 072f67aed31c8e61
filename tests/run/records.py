"""Records of runs that no scan made."""

from __future__ import annotations

from typing import Any

from raymia.data.manifest import Manifest, Split
from raymia.run.record import JobRecord, ModelRecord, ReplicaRecord, ScanRecord, now_text


def scan_record(**changes: Any) -> ScanRecord:
    """The record of a scan of a made-up set against a made-up model."""
    splits = (Split(name="in", member=True, shards=("a.tar",)), Split(name="out", member=False, shards=("b.tar",)))
    record: dict[str, Any] = {
        "manifest": Manifest(name="set", splits=splits),
        "job": JobRecord(replica=ReplicaRecord(model="a-model")),
        "model": ModelRecord(fingerprint="a"),
        "dtype": "float32",
        "expected": None,
        "started": now_text(),
        "finished": None,
    }
    return ScanRecord(**{**record, **changes})
