"""An extraction beside another scan, such as an audit's: of the same works, model and captions, with the answers it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raymia.attacks.extraction import Extraction as ExtractionAttack
from raymia.config import Job, override_field, parse_job
from raymia.curation.derive import MANIFEST_FILE, derive, output_folder, relative, write_manifest
from raymia.data.manifest import Split, load_manifest, within
from raymia.data.selection import IDENTITY, shard_readers
from raymia.data.tables import read_table
from raymia.errors import ConfigError
from raymia.evaluation.extraction import SIGNAL
from raymia.evidence.extraction import Prepared, Wanted, planned
from raymia.report.extraction_page import GENERATED
from raymia.run.files import ANSWERS
from raymia.services.hosted import Hosted

ASKED = "asked"
"""Folder of the manifest of the splits that are asked about."""


def prepare_beside(
    job: Job,
    folder: Path,
    wanted: Wanted,
    copies: str | None = None,
    splits: Sequence[str] | None = None,
    changes: Sequence[str] = (),
) -> Prepared:
    """An extraction of the works of a scan that is planned or done: of its model or service, told the same captions.

    Nothing is packed again. A service's answers are kept where the scan keeps them, so that what it was asked in the same
    words, such as by `generation`, is not paid for again.

    Args:
        job: of the scan; its parameters of the attack `extraction` hold, where it has that.
        folder: for everything that is made.
        wanted: which captions are asked.
        copies: the detector; none for the job's, or its CLIP.
        splits: of the job's manifest, whose samples are the works; none for all.
        changes: ``FIELD=VALUE`` of the extraction's job, such as ``attacks.extraction.steps=30``.

    Raises:
        ConfigError: names the field, or the split that is not there.
    """
    detector = detector_of(job, copies)
    attack = job.attacks.get(SIGNAL, ExtractionAttack())
    if wanted.draws is not None:
        attack = attack.model_copy(update={"draws": wanted.draws})
    content: dict[str, Any] = job.model_dump(mode="json")
    content |= {
        "control_model": None,
        "reference": None,
        "latent_cache": None,
        "attacks": {SIGNAL: attack.model_dump(mode="json")},
    }
    content |= {"copies": detector, "run": f"{folder}/{GENERATED}"}
    if splits is not None:
        content["manifest"] = _of_splits(job.manifest, splits, folder)
    for change in changes:
        override_field(content, change)
    beside = parse_job(content, "the extraction")
    if isinstance(beside.hosted, Hosted) and beside.hosted.answers is None:
        kept = beside.hosted.model_copy(update={"answers": f"{job.run}/{ANSWERS}"})
        beside = beside.model_copy(update={"replica": kept})
    return planned(beside, wanted, folder)


def detector_of(job: Job, copies: str | None) -> str:
    """The copy detector that is named, or the job's, or its CLIP.

    Raises:
        ConfigError: there is none.
    """
    detector = copies or job.copies or (None if job.clip is None else "clip")
    if detector is None:
        raise ConfigError("--copies: give sscd:FILE, dinov2:FOLDER-OR-ID, or clip with --clip; see docs/extraction.md")
    return detector


def _of_splits(source: str, splits: Sequence[str], folder: Path) -> str:
    """Write the manifest of some splits; give its path."""
    manifest, place = load_manifest(source)
    if other := sorted({*splits} - {split.name for split in manifest.splits}):
        known = ", ".join(split.name for split in manifest.splits)
        raise ConfigError(f"manifest {source}: no split {other[0]!r}; it has {known}")
    out = output_folder(f"{folder}/{ASKED}")
    shards = [reader.shard for reader in shard_readers(manifest, place)]
    kept = [split for split in manifest.splits if split.name in splits]
    if manifest.selection is not None:
        table = read_table(within(place, manifest.selection), IDENTITY, "selection", others=False)
        derive(
            manifest.model_copy(update={"clusters": None, "attrition": None, "features": None}),
            place,
            out,
            table[table["split"].isin(splits)],
            shards,
            {split.name: split.member for split in kept},
        )
    else:
        narrowed = tuple(
            Split(
                name=split.name,
                member=split.member,
                shards=tuple(relative(shard.url, out.url) for shard in shards if shard.split == split.name),
                samples=split.samples,
            )
            for split in kept
        )
        unrelated = dict.fromkeys(("clusters", "attrition", "features"))
        write_manifest(out, manifest.model_copy(update={**unrelated, "splits": narrowed}))
    return f"{folder}/{ASKED}/{MANIFEST_FILE}"
