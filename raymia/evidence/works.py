"""An owner's question, from two folders of images to a sealed bundle."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from raymia.config import Job
from raymia.curation.derive import output_folder
from raymia.engine.start import on_ray
from raymia.errors import ConfigError
from raymia.evaluation.blind import blind_scores
from raymia.evaluation.evidence import CONTROL_SPLIT, WORKS_SPLIT, Context, Evidence, Said, make_evidence
from raymia.evaluation.intervals import Interval, delong
from raymia.evaluation.set_level import MINIMUM
from raymia.evaluation.sources import read_samples
from raymia.evidence.asking import RUN, Asked, job_of, write_job
from raymia.evidence.beside import EXTRACTION, NOTHING, Beside, extraction_of, look, of_scores, require
from raymia.evidence.bundle import Bundle, seal
from raymia.evidence.extraction import Prepared as Extraction
from raymia.evidence.extraction import conduct as extract
from raymia.evidence.registration import Registration, register, registration_of, stamp, stamp_of
from raymia.evidence.sets import Sets, Sources, make_sets, manifest_of
from raymia.evidence.timestamp import Stamp
from raymia.report.evidence_page import Registered, write_evidence_page
from raymia.report.extraction_page import read_extraction
from raymia.run.ledger import Ledger
from raymia.run.record import Counts
from raymia.scan.budget import Proposal
from raymia.scan.pipeline import run_plan
from raymia.scan.plan import ScanPlan, make_plan
from raymia.scan.told import distilled

EVIDENCE_FILE = "evidence.json"


@dataclass(frozen=True)
class Prepared:
    """An audit of which everything is known but the scores.

    Attributes:
        folder: of the audit.
        asked: the model.
        sets: works and control.
        job: of the scan.
        proposal: how its attacks were chosen, where a budget chose them.
        plan: of the scan.
        extraction: that asks the model for images of the works' captions, where that is wanted.
        said: what was looked up.
        blind: AUC of classifiers that never see the model, works against control; .5 where the sets are alike.
    """

    folder: Path
    asked: Asked
    sets: Sets
    job: Job
    proposal: Proposal | None
    plan: ScanPlan
    extraction: Extraction | None
    said: Said
    blind: dict[str, Interval]


def prepare(
    sources: Sources,
    asked: Asked,
    folder: Path,
    console: Console,
    beside: Beside = NOTHING,
) -> Prepared:
    """Pack and check everything that can be checked before a model is loaded; the same call goes on where it was stopped.

    Args:
        sources: of the images.
        asked: the model.
        folder: of the audit.
        console: where progress is shown.
        beside: what is looked at beside scores.

    Raises:
        ConfigError: names the source, the option or the field.
        RaymiaError: a set is too small, or packing failed.
    """
    # A model that cannot be asked is said before an image is packed.
    asked, changes = of_scores(beside, asked)
    job, proposal = job_of(asked, manifest_of(folder), f"{folder}/{RUN}")
    provider = require(beside, sources, job)
    with on_ray("audit"):
        sets = make_sets(sources, str(folder), console)
    for split in (WORKS_SPLIT, CONTROL_SPLIT):
        if (count := sets.samples.get(split, 0)) < MINIMUM:
            raise ConfigError(f"{split}: {count} images are left; a set needs at least {MINIMUM}")
    plan = make_plan(job)
    extraction = extraction_of(beside, job, folder, changes)
    write_job(job, folder)
    said = look(beside, provider, str(folder), console)
    return Prepared(folder, asked, sets, job, proposal, plan, extraction, said, _blind(sets.manifest))


def _registered(registration: Registration, stamped: Stamp | None) -> Registered:
    return Registered(registration.registered, registration.digest(), None if stamped is None else stamped.told)


def _blind(manifest: str) -> dict[str, Interval]:
    table, _ = read_samples(manifest)
    table = table[table["split"].isin((WORKS_SPLIT, CONTROL_SPLIT))].reset_index(drop=True)
    suspected = table["split"].eq(WORKS_SPLIT).to_numpy()
    return {name: delong(scores, suspected) for name, scores in blind_scores(table, suspected).items()}


def commit_to(prepared: Prepared, authority: str | None = None) -> tuple[Registration, Stamp | None]:
    """Register what will be tested, or hold it against what was registered; and have it stamped where that is wanted.

    Args:
        prepared: an audit of which everything is known but the scores.
        authority: URL of a time-stamping authority.

    Returns:
        The registration that holds, and the time stamp of it that there is.

    Raises:
        ConfigError: another audit was registered in the folder.
        StampError: the authority gave no time stamp, or the one that is there is none.
    """
    ledger = Ledger(prepared.job.run)
    storage = output_folder(str(prepared.folder))
    asking = None if prepared.extraction is None else prepared.extraction.generation
    folder, access = str(prepared.folder), prepared.asked.access
    new = registration_of(prepared.plan, asking, prepared.sets, folder, access, version("raymia"))
    has_scores = ledger.read_run() is not None
    registration = register(storage, new, has_scores)
    if authority is not None:
        return registration, stamp(storage, registration, authority, has_scores)
    return registration, stamp_of(storage, registration)


def conduct(
    prepared: Prepared, registration: Registration, stamped: Stamp | None, console: Console
) -> tuple[Evidence, Bundle, Counts]:
    """Scan, test, write the page and seal the folder; the same call goes on where it was stopped.

    Args:
        prepared: an audit of which everything is known but the scores.
        registration: of it.
        stamped: time stamp of that, where there is one.
        console: where progress is shown.

    Raises:
        ConfigError, RaymiaError: the scan failed, or too little was scored.
    """
    folder, run = prepared.folder, prepared.job.run
    pool = prepared.job.pool
    with on_ray("audit", pool.replicas or pool.max_replicas or 1):
        counts = run_plan(prepared.plan, console)
        extraction = None if prepared.extraction is None else extract(prepared.extraction, console)[0]
    pipeline = prepared.plan.folder
    context = Context(
        lost=prepared.sets.lost,
        twins=prepared.sets.twins,
        distilled=pipeline is not None and distilled(prepared.job, pipeline),
        said=prepared.said,
        extraction=extraction,
    )
    evidence = make_evidence(run, prepared.asked.access, context)
    storage = output_folder(str(folder))
    storage.write(EVIDENCE_FILE, evidence.model_dump_json(indent=1).encode() + b"\n")
    exhibits = None if extraction is None else read_extraction(f"{folder}/{EXTRACTION}")
    write_evidence_page(storage, run, evidence, _registered(registration, stamped), exhibits)
    record = Ledger(run).require_scan()
    return evidence, seal(folder, version("raymia"), record.model.fingerprint, record.versions), counts
