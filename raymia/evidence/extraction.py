"""Are works given back? Captions are screened, those that stand high asked for images, and these held against the works."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console

from raymia.attacks.extraction import Extraction as ExtractionAttack
from raymia.attacks.memorisation import Memorisation
from raymia.config import Job, override_field, read_job
from raymia.curation.derive import MANIFEST_FILE, SELECTION_FILE, derive, output_folder
from raymia.data.clusters import components
from raymia.data.manifest import load_manifest
from raymia.data.selection import IDENTITY
from raymia.data.tables import read_table
from raymia.data.tar import RawSample, ShardEnd
from raymia.engine.start import on_ray
from raymia.errors import ConfigError, RaymiaError
from raymia.evaluation.extraction import SIGNAL, Captions, Extraction, make_extraction
from raymia.evidence.asking import Asked, job_of
from raymia.evidence.sets import thumbnails_in, twins_of
from raymia.report.extraction_page import EXTRACTION_FILE, GENERATED, with_images, write_extraction_page
from raymia.run.ledger import Ledger
from raymia.run.record import Counts
from raymia.scan.pipeline import run_plan, run_scan
from raymia.scan.plan import ScanPlan, make_plan
from raymia.shipped import NAMED

SCREEN, CHOSEN = "screen", "chosen"
"""Folders: the run that screens captions, and the manifest of those that are chosen."""
SCREENED = "memorisation"
HANDFUL = 50
"""So many captions are all asked, where nobody says which share."""
TOP_PERCENT, LEAST = 1.0, 10
"""Share of the captions that is asked of more, and how many at least."""
FLOOR = 20
"""Captions that are drawn at random from those that were not chosen, for the floor."""
BATCH, UNIT = 4, 16
"""Most samples in front of a replica at once, and in a unit: each asks for many images, which are spread and resumed so."""


@dataclass(frozen=True)
class Wanted:
    """Which captions are asked, and how often.

    Attributes:
        top: percent of the captions, by what they scored when they were screened; none for `TOP_PERCENT`, or all of a handful.
        draws: images of each caption; none for the job's, or the attack's default.
        floor: captions drawn at random from the rest, for the floor.
    """

    top: float | None = None
    draws: int | None = None
    floor: int = FLOOR


@dataclass(frozen=True)
class Prepared:
    """An extraction of which everything is known but which captions stand high.

    Attributes:
        folder: for everything that is made.
        wanted: which captions are asked.
        screen: the scan of all captions; none where a service is asked, which cannot be screened.
        generation: the scan that asks for images, of all captions; those that are chosen take its place.
    """

    folder: Path
    wanted: Wanted
    screen: ScanPlan | None
    generation: ScanPlan

    @property
    def expected(self) -> int | None:
        """Captions that will be asked at most, where the manifest announces its samples."""
        samples = self.generation.expected
        return None if samples is None else sum(_how_many(samples, self.wanted, self.screen is not None))


def prepare(asked: Asked, manifest: str | None, copies: str | None, wanted: Wanted, folder: Path) -> Prepared:
    """Check everything that can be checked before a model is loaded.

    Args:
        asked: the model.
        manifest: of the works; none for the job's.
        copies: the detector; none for the job's, or the CLIP.
        wanted: which captions are asked.
        folder: for everything that is made.

    Raises:
        ConfigError: names the option or the field.
    """
    if asked.job_file is None and manifest is None:
        raise ConfigError("--manifest: give the works, as `raymia data pack` or `raymia data index` makes a manifest of them")
    content = read_job(asked.job_file, None, None) if asked.job_file is not None else {}
    named = str(manifest or content.get("manifest") or "")
    if not named:
        raise ConfigError(f"--manifest: the job {asked.job_file} names none; give the manifest of the works")
    if Path(named).resolve() == (folder / CHOSEN / MANIFEST_FILE).resolve():
        raise ConfigError(f"--out {folder}: holds {named} itself; give another folder")
    job, _ = job_of(_with_attack(asked, copies, wanted, content), named, f"{folder}/{GENERATED}")
    if (job.manifest, job.run) != (named, f"{folder}/{GENERATED}"):
        raise ConfigError("--set manifest, --set run: give --manifest and --out instead")
    return planned(job, wanted, folder)


def planned(job: Job, wanted: Wanted, folder: Path) -> Prepared:
    """An extraction of a job that has the attack, its manifest that of the works and its run `GENERATED` in the folder.

    Args:
        job: with the attack and a detector.
        wanted: which captions are asked.
        folder: for everything that is made.

    Raises:
        ConfigError: names the field.
    """
    if job.caption_source != "own":
        raise ConfigError(f"caption_source: {job.caption_source} tells the model other captions than the works'; leave it out")
    if job.hosted is not None and wanted.top is not None:
        raise ConfigError(
            f"--top: captions cannot be screened by service {job.hosted.service}, which makes images alone; leave it out"
        )
    attack = job.attacks.get(SIGNAL)
    assert isinstance(attack, ExtractionAttack)
    changed: dict[str, Any] = {"attacks": {SIGNAL: attack}, "labels_do_not_hold": True}
    changed |= {"control_model": None, "reference": None, "latent_cache": None, "unit_size": min(job.unit_size, UNIT)}
    changed["pool"] = job.pool.model_copy(update={"batch_size": min(job.pool.batch_size, BATCH)})
    generation = make_plan(job.model_copy(update=changed))
    screen = None
    if job.hosted is None:
        screening: dict[str, Any] = {
            "attacks": {SCREENED: job.attacks.get(SCREENED, Memorisation())},
            "run": f"{folder}/{SCREEN}",
        }
        screening |= {"unit_size": job.unit_size, "pool": job.pool, "copies": None, "clip": None}
        screen = make_plan(generation.job.model_copy(update=screening))
    return Prepared(folder, wanted, screen, generation)


def _with_attack(asked: Asked, copies: str | None, wanted: Wanted, content: dict[str, Any]) -> Asked:
    """The question with the attack and the detector, where the job names neither."""
    before, after = [], []
    if not isinstance(content.get("attacks"), dict) or SIGNAL not in content["attacks"]:
        before.append(f"attacks.{SIGNAL}={{}}")
    if wanted.draws is not None:
        after.append(f"attacks.{SIGNAL}.draws={wanted.draws}")
    if asked.job_file is None:
        named = asked.model in NAMED.names() and NAMED.get(str(asked.model))().clip() is not None
        clip = asked.clip or (asked.model if named and copies in (None, "clip") else None)
        asked = replace(asked, clip=clip)
        given: dict[str, Any] = {}
        for change in asked.changes:
            override_field(given, change)
        copies = copies or (None if "copies" in given else "clip" if clip is not None else "")
        if copies == "" and (asked.model or asked.service):
            raise ConfigError("--copies: give sscd:FILE, dinov2:FOLDER-OR-ID, or clip with --clip; see docs/extraction.md")
    if copies:
        after.append(f"copies={json.dumps(copies, ensure_ascii=False)}")
    return replace(asked, changes=(*before, *asked.changes, *after))


def conduct(prepared: Prepared, console: Console) -> tuple[Extraction, Counts]:
    """Screen, ask, compare and write the page; the same call goes on where it was stopped.

    Args:
        prepared: what is to be done.
        console: where progress is shown.

    Returns:
        What was found, and the counts of the scan that asked for images.

    Raises:
        ConfigError: the folder was begun with other captions.
        RaymiaError: a scan failed, or there is no caption to ask.
    """
    folder, generation = prepared.folder, prepared.generation
    pool = generation.job.pool
    with on_ray("extract", pool.replicas or pool.max_replicas or 1):
        if prepared.screen is not None:
            run_plan(prepared.screen, console)
        samples, captions = _screened(prepared.screen) if prepared.screen is not None else _listed(generation)
        chosen = choose(samples, prepared.wanted, generation.job.seed, prepared.screen is not None)
        roles = chosen["role"].value_counts()
        captions = captions.model_copy(
            update={
                "without_caption": int((~_told(samples)).sum()),
                "passed_over": int(_told(samples).sum()) - len(chosen),
                "chosen": int(roles.get("chosen", 0)),
                "drawn": int(roles.get("drawn", 0)),
            }
        )
        manifest = _chosen_manifest(generation, chosen, folder)
        chosen = chosen.assign(picture=_pictures(generation, chosen))
        counts = run_scan(generation.job.model_copy(update={"manifest": manifest}), console)
    storage = output_folder(str(folder))
    found = make_extraction(generation.job.run, chosen, captions)
    found, images = with_images(storage, generation.job.run, found)
    storage.write(EXTRACTION_FILE, found.model_dump_json(indent=1).encode() + b"\n")
    write_extraction_page(storage, generation.job.run, found, images)
    return found, counts


def choose(samples: pd.DataFrame, wanted: Wanted, seed: int, screened: bool = True) -> pd.DataFrame:
    """The captions that are asked: those that scored highest, ties in the order of their names, and some of the rest at random.

    Args:
        samples: split, shard, key, `caption` and what each scored, `screened`; those without a caption are never asked.
        wanted: how many.
        seed: of the draw.
        screened: whether captions have scores; without them all are asked.

    Returns:
        Split, shard, key, `screened` and `role` of those that are asked.

    Raises:
        RaymiaError: no sample has a caption.
    """
    told = samples[_told(samples)].sort_values(["screened", *IDENTITY], ascending=[False, True, True, True])
    if not len(told):
        raise RaymiaError("no sample that can be read has a caption, which the model could be told; see docs/data.md")
    top, drawn = _how_many(len(told), wanted, screened)
    rest = told.iloc[top:]
    picked = rest.iloc[np.sort(np.random.default_rng(seed).permutation(len(rest))[:drawn])]
    parts = [told.iloc[:top].assign(role="chosen"), picked.assign(role="drawn")]
    return pd.concat(parts)[[*IDENTITY, "screened", "role"]].reset_index(drop=True)


def _how_many(captions: int, wanted: Wanted, screened: bool) -> tuple[int, int]:
    """How many of so many captions are asked, and how many drawn from the rest."""
    if not screened or (wanted.top is None and captions <= HANDFUL):
        return captions, 0
    if wanted.top is None:
        top = max(LEAST, math.ceil(captions * TOP_PERCENT / 100 - 1e-9))
    else:
        top = max(1, math.ceil(captions * wanted.top / 100 - 1e-9))
    return min(top, captions), min(wanted.floor, captions - min(top, captions))


def _told(samples: pd.DataFrame) -> pd.Series:
    """Which samples have a caption."""
    told: pd.Series = samples["caption"].fillna("").str.strip().ne("")
    return told


def _screened(plan: ScanPlan) -> tuple[pd.DataFrame, Captions]:
    """All samples with what their captions scored."""
    ledger = Ledger(plan.job.run)
    counts = ledger.counts(plan.expected)
    table = ledger.scores([*IDENTITY, "caption", SCREENED]).to_pandas().rename(columns={SCREENED: "screened"})
    return table, _captions(counts.read, counts.by_reason)


def _listed(plan: ScanPlan) -> tuple[pd.DataFrame, Captions]:
    """All samples by their captions alone."""
    rows, reasons = [], Counter[str]()
    for reader in plan.readers:
        for item in reader.read(with_images=False):
            if isinstance(item, ShardEnd):
                reasons.update([item.fault.reason] if item.fault is not None else [])
            elif isinstance(item, RawSample) and item.fault is not None:
                reasons[item.fault.reason] += 1
            else:
                rows.append((*reader.place, item.key, item.caption, float("nan")))
    table = pd.DataFrame(rows, columns=[*IDENTITY, "caption", "screened"])
    return table, _captions(len(table) + reasons.total(), dict(reasons))


def _captions(read: int, unreadable: dict[str, int]) -> Captions:
    nothing = dict.fromkeys(("without_caption", "passed_over", "chosen", "drawn", "answered"), 0)
    return Captions(read=read, unreadable=unreadable, unanswered={}, **nothing)


def _pictures(plan: ScanPlan, chosen: pd.DataFrame) -> NDArray[np.int64]:
    """Number of the picture that each work shows, the same for works that show the same but for size, quality and margin.

    One that cannot be read is a picture of its own.
    """
    names = list(map(tuple, chosen[IDENTITY].to_numpy(str)))
    number = {name: index for index, name in enumerate(names)}
    places = {name[:2] for name in names}
    table, pictures = thumbnails_in([one for one in plan.readers if one.place in places], plan.job.max_pixels, number.keys())
    seen = np.array([number[tuple(name)] for name in table[IDENTITY].to_numpy(str)], np.int64)
    return components(len(names), seen[twins_of(pictures)])


def _chosen_manifest(plan: ScanPlan, chosen: pd.DataFrame, folder: Path) -> str:
    """Write the manifest of those that are asked; give its path.

    Raises:
        ConfigError: others are being asked in this folder already.
    """
    place = f"{folder}/{CHOSEN}"
    if Ledger(plan.job.run).read_run() is not None:
        before = read_table(f"{place}/{SELECTION_FILE}", IDENTITY, "selection", others=False)
        if set(map(tuple, before[IDENTITY].to_numpy())) != set(map(tuple, chosen[IDENTITY].to_numpy())):
            raise ConfigError(
                f"--out {folder}: was begun with other captions; give --top, --floor and --manifest as then, or another folder"
            )
        return f"{place}/{MANIFEST_FILE}"
    manifest, source = load_manifest(plan.job.manifest)
    labels = {split.name: split.member for split in manifest.splits if split.name in set(chosen["split"])}
    shards = [reader.shard for reader in plan.readers]
    derive(manifest, source, output_folder(place), chosen[IDENTITY], shards, labels)
    return f"{place}/{MANIFEST_FILE}"
