"""A randomised hold-back, tested: the planned works packed and scanned without a word of the draw, and then held against it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ValidationError
from rich.console import Console

from raymia.config import Job, as_it_was_meant
from raymia.curation.derive import MANIFEST_FILE, output_folder
from raymia.curation.names import keys_of
from raymia.curation.pack import pack
from raymia.curation.parts import FilePart, ImageFile
from raymia.data.manifest import load_manifest
from raymia.data.selection import ShardReader, shard_readers
from raymia.data.tar import RawSample, ShardEnd
from raymia.digests import file_digest
from raymia.engine.start import on_ray
from raymia.errors import ConfigError, describe_validation
from raymia.evaluation.canary import CanaryTest, canary_test, unit_scores
from raymia.evaluation.signals import LEVELS, scored_rows, signals_of
from raymia.evidence.asking import RUN, Asked, job_of, write_job
from raymia.evidence.canary import SPLIT, Plan, PlannedWork
from raymia.evidence.canary_declared import Declared, require_declared, with_declared
from raymia.evidence.sets import PACKED, PER_SHARD
from raymia.run.ledger import Ledger
from raymia.run.record import Access, Counts, SignalRecord, now_text
from raymia.run.storage import Storage
from raymia.scan.budget import Proposal
from raymia.scan.pipeline import run_plan
from raymia.scan.plan import ScanPlan, make_plan

RESULT_FILE = "canary.json"
MAX_BYTES = 2**24
NAMED = 3
"""Files that an error names."""


class CanaryResult(BaseModel):
    """Contents of canary.json: what was planned, what was asked, what was found."""

    format: int = 1
    made: str
    """When, in UTC."""
    raymia: str
    commitment: str
    """sha256 of the plan."""
    commitment_held: bool
    """Whether that was held against a hash that was given."""
    planned: str
    """When, by the clock of the machine that made the plan."""
    subject: str
    """The model, by its name, or the service."""
    fingerprint: str
    """What identifies it."""
    run: str
    declared: Declared
    works: int
    published_works: int
    units: int
    published_units: int
    scored: int
    """Works."""
    unscored: dict[str, int]
    """Works that are left out, by reason."""
    missing: list[str]
    """Works that were not there any more, and count at their worst."""
    bytes_checked: bool
    """Whether what was scanned was held against the plan byte for byte."""
    others: int
    """Samples of the run that the plan does not name, which were left out."""
    undeclared: list[str] = []
    """Primary signals of the run that do not count, as the plan declares others."""
    test: CanaryTest
    significant: bool
    """p is no larger than the alpha that was declared."""


@dataclass(frozen=True)
class Prepared:
    """A test of which everything is known but the scores.

    Attributes:
        plan: of the hold-back.
        folder: for everything that is made.
        job: of the scan.
        proposal: how its attacks were chosen, where a budget chose them.
        scan: what will be scanned.
        missing: works that are not there any more.
        lost: works that could not be packed, with the reason.
    """

    plan: Plan
    folder: Path
    job: Job
    proposal: Proposal | None
    scan: ScanPlan
    missing: list[str]
    lost: dict[str, str]


def require_commitment(plan: Plan, commitment: str) -> None:
    """Hold a plan against the hash that was published.

    Raises:
        ConfigError: it is another plan's.
    """
    if commitment.strip().lower() != plan.commitment():
        raise ConfigError(f"--commitment: is of another plan; the hash of this one is {plan.commitment()}")


def prepare(plan: Plan, works: Path, asked: Asked, folder: Path, console: Console) -> Prepared:
    """Check, pack and plan all that can be before a model is loaded; the same call goes on where it was stopped.

    All works are packed as one split, in the order of their names, with the captions that the plan fixed, and labelled
    unknown: nothing that is scanned tells the halves apart, so that no score can depend on the draw but through the model.

    Args:
        plan: of the hold-back.
        works: folder of all works, published and held back.
        asked: the model.
        folder: for everything that is made.
        console: where progress is shown.

    Raises:
        ConfigError: names the file, the option or the field.
        RaymiaError: packing failed; the same call goes on from there.
    """
    manifest = f"{folder}/{PACKED}/{MANIFEST_FILE}"
    # A model that cannot be asked is said before an image is packed.
    job, proposal = job_of(with_declared(plan.test, asked), manifest, f"{folder}/{RUN}")
    if (job.manifest, job.run) != (manifest, f"{folder}/{RUN}"):
        raise ConfigError("--set manifest, --set run: the planned works are scanned, into --out; leave it out")
    _require_asked_as_planned(plan, job.model_dump(mode="json"), "the question")
    missing = _missing(plan, works)
    lost = _pack(plan, works, frozenset(missing), f"{folder}/{PACKED}", console)
    _hold_against(plan, shard_readers(*load_manifest(manifest)))
    scan = make_plan(job)
    tested(plan.test, scan.signals)
    write_job(job, folder)
    return Prepared(plan, folder, job, proposal, scan, missing, lost)


def conduct(prepared: Prepared, commitment_held: bool, console: Console) -> tuple[CanaryResult, Counts]:
    """Scan and test; the same call goes on where it was stopped.

    Args:
        prepared: see `prepare`.
        commitment_held: whether the plan was held against a published hash.
        console: where progress is shown.

    Raises:
        ConfigError, RaymiaError: the scan failed, or nothing was scored.
    """
    counts = run_plan(prepared.scan, console)
    result = _result(prepared.plan, prepared.job.run, prepared.missing, prepared.lost, commitment_held, True)
    _write(result, prepared.folder)
    return result, counts


def of_run(plan: Plan, run: str, folder: Path, commitment_held: bool) -> CanaryResult:
    """Test by a scan that is done.

    Works are found by their keys, in whatever splits they are; where the run's shards are within reach, their bytes and
    captions are held against the plan.

    Args:
        plan: of the hold-back.
        run: run directory.
        folder: for the result.
        commitment_held: whether the plan was held against a published hash.

    Raises:
        ConfigError: a planned work is not in the run, or another image or caption is in its place.
        RaymiaError: the run cannot be read.
    """
    record = Ledger(run).require_scan()
    _require_asked_as_planned(plan, as_it_was_meant(record.job.model_dump(mode="json")), run)
    checked = _hold_against(plan, [ShardReader(shard) for shard in record.shards])
    result = _result(plan, run, [], {}, commitment_held, checked)
    output_folder(str(folder))
    _write(result, folder)
    return result


def tested(test: Declared, signals: Sequence[SignalRecord]) -> list[str]:
    """The signals that count: those that were declared, or all primary ones.

    Raises:
        ConfigError: one that was declared is not there.
    """
    known = signals_of(Access.WHITE, signals)
    of_attack = {signal.name: signal.attack for signal in signals if signal.primary and signal.name in known}
    for name in test.signals:
        if name not in known:
            raise ConfigError(
                f"the plan declares signal {name}, and the scan has {', '.join(known) or 'none'}; scan with its attack, its "
                "timesteps and, for `calibrated`, a --reference"
            )
    for name in test.attacks:
        if name not in of_attack.values():
            raise ConfigError(f"the plan declares attack {name}, which the scan does not have; scan with it")
    if test.signals:
        return test.signals
    return [name for name, attack in of_attack.items() if not test.attacks or attack in test.attacks]


def _require_asked_as_planned(plan: Plan, job: Mapping[str, Any], source: str) -> None:
    """Refuse a job that asks otherwise than was declared, and one that tells the model other captions than the works'."""
    if (told := job.get("caption_source", "own")) != "own":
        raise ConfigError(f"{source}: caption_source: {told} tells the model other captions than the plan's; ask with its own")
    require_declared(plan.test, job, source)


def _missing(plan: Plan, works: Path) -> list[str]:
    """The works that are not there any more; none of the others was changed."""
    if not works.is_dir():
        raise ConfigError(f"--works {works}: no such folder; give the one that the plan was made of, with both halves")
    missing = [work.path for work in plan.works if not (works / work.path).is_file()]
    if len(missing) == len(plan.works):
        raise ConfigError(f"--works {works}: holds none of the {len(plan.works)} planned works, such as {missing[0]}")
    gone = set(missing)
    _refuse_changed([work.path for work in plan.works if work.path not in gone and _digest(works, work) != work.sha256])
    return missing


def _digest(works: Path, work: PlannedWork) -> str:
    return file_digest(works / work.path)


def _refuse_changed(changed: list[str]) -> None:
    if changed:
        more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        raise ConfigError(
            f"{', '.join(changed[:NAMED])}{more}: not the file that was planned; restore it byte for byte, or take it away: "
            "then it is missing, and counts at its worst"
        )


def _keys(plan: Plan) -> list[str]:
    return keys_of([work.path for work in plan.works])


def _pack(plan: Plan, works: Path, missing: frozenset[str], out: str, console: Console) -> dict[str, str]:
    """Pack the works; reason of each that could not be."""
    files = [
        ImageFile(str(works / work.path), work.path, key, work.caption)
        for work, key in zip(plan.works, _keys(plan), strict=True)
        if work.path not in missing
    ]
    starts = range(0, len(files), PER_SHARD)
    parts = [FilePart(SPLIT, number, tuple(files[i : i + PER_SHARD])) for number, i in enumerate(starts)]
    with on_ray("canary"):
        manifest, _ = pack("canary", {SPLIT: "unknown"}, parts, out, console)
    assert manifest.attrition is not None
    rows = pd.read_parquet(f"{out}/{manifest.attrition}")
    lost = rows[rows["reason"].notna()]
    return dict(zip(lost["key"], lost["reason"], strict=True))


def _hold_against(plan: Plan, readers: Sequence[ShardReader]) -> bool:
    """Hold what stands in shards against the plan: the same bytes, and the captions that were fixed.

    Returns:
        Whether all shards could be read to their ends.
    """
    by_key = dict(zip(_keys(plan), plan.works, strict=True))
    changed, whole = [], True
    for reader in readers:
        for item in reader.read():
            if isinstance(item, ShardEnd):
                whole = whole and item.fault is None
                continue
            if not isinstance(item, RawSample) or item.image is None or (work := by_key.get(item.key)) is None:
                continue
            if hashlib.sha256(item.image).hexdigest() != work.sha256:
                changed.append(f"{reader.shard.name}: {work.path}")
            elif item.caption != work.caption:
                raise ConfigError(
                    f"{reader.shard.name}: {work.path}: has the caption {item.caption[:60]!r} and not the planned "
                    f"{work.caption[:60]!r}; a caption that was changed after the draw may tell the halves apart"
                )
    _refuse_changed(changed)
    return whole


def _result(
    plan: Plan, run: str, missing: list[str], lost: dict[str, str], commitment_held: bool, bytes_checked: bool
) -> CanaryResult:
    ledger = Ledger(run)
    record = ledger.require_scan()
    names = tested(plan.test, record.signals)
    if not names:
        raise ConfigError(f"{run}: no signal of any attack; scan with some")
    keys = dict(zip(_keys(plan), plan.works, strict=True))
    table = scored_rows(ledger.frame())
    quarantine = ledger.quarantine().to_pandas()
    others = int((~table["key"].isin(keys)).sum())
    table = table[table["key"].isin(keys)]
    if (twice := table["key"].duplicated()).any():
        raise ConfigError(f"{run}: {table.loc[twice, 'key'].iloc[0]} is in it more than once; scan each planned work once")
    reasons = lost | dict(zip(quarantine["key"], quarantine["reason"], strict=True))
    scored, gone = set(table["key"]), set(missing)
    for key, work in keys.items():
        if key not in scored and key not in reasons and work.path not in gone:
            raise ConfigError(
                f"{run}: {work.path} is planned, and neither scored nor quarantined there (its key would be {key}); a test "
                "needs a finished scan of every planned work, published or not"
            )
    number = {unit: index for index, unit in enumerate(plan.assignment)}
    table = table.sort_values("key")
    unit = np.array([number[keys[key].unit] for key in table["key"]], np.int64)
    away = np.array([number[work.unit] for work in plan.works if work.path in gone], np.int64)
    published = np.array([side == "publish" for side in plan.assignment.values()])
    found = unit_scores(table[names].to_numpy(float), unit, away, len(number))
    result = canary_test(found, published, names, plan.test.redraws, _redraw_seed(plan))
    return CanaryResult(
        made=now_text(),
        raymia=version("raymia"),
        commitment=plan.commitment(),
        commitment_held=commitment_held,
        planned=plan.planned,
        subject=record.job.subject,
        fingerprint=record.model.fingerprint,
        run=ledger.run,
        declared=plan.test,
        works=len(plan.works),
        published_works=len(plan.side("publish")),
        units=len(plan.assignment),
        published_units=plan.published_units,
        scored=len(table),
        unscored=dict(Counter(reasons[key] for key in keys if key in reasons and key not in scored)),
        missing=missing,
        bytes_checked=bytes_checked,
        others=others,
        undeclared=[one.name for one in record.signals if one.primary and one.access in LEVELS and one.name not in names],
        test=result,
        significant=result.p <= plan.test.alpha,
    )


def _redraw_seed(plan: Plan) -> int:
    """Follows from the plan, so that p is the same for everybody who computes it, and nobody chose it."""
    return int.from_bytes(hashlib.sha256(b"redraws of " + bytes.fromhex(plan.nonce)).digest())


def _write(result: CanaryResult, folder: Path) -> None:
    """Write the result, but over none of another plan or model."""
    storage = Storage(str(folder))
    before = storage.read(RESULT_FILE, MAX_BYTES)
    if before is not None:
        try:
            known = CanaryResult.model_validate_json(before)
        except ValidationError as error:
            raise ConfigError(f"{folder}/{RESULT_FILE}: is no result ({describe_validation(error, CanaryResult)})") from error
        if (known.commitment, known.fingerprint, known.run) != (result.commitment, result.fingerprint, result.run):
            raise ConfigError(f"{folder}/{RESULT_FILE}: is of another plan, model or run; choose another --out")
    storage.write(RESULT_FILE, result.model_dump_json(indent=1).encode() + b"\n")
