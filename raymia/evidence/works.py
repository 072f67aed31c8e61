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
from raymia.evaluation.evidence import CONTROL_SPLIT, WORKS_SPLIT, Evidence, make_evidence
from raymia.evaluation.intervals import Interval, delong
from raymia.evaluation.set_level import MINIMUM
from raymia.evaluation.signals import signals_of
from raymia.evaluation.sources import read_samples
from raymia.evidence.asking import RUN, Asked, job_of, write_job
from raymia.evidence.bundle import Bundle, seal
from raymia.evidence.registration import Registration, register, registration_of
from raymia.evidence.sets import Sets, Sources, make_sets, manifest_of
from raymia.report.evidence_page import write_evidence_page
from raymia.run.ledger import Ledger
from raymia.run.record import Counts
from raymia.scan.budget import Proposal
from raymia.scan.pipeline import run_plan
from raymia.scan.plan import ScanPlan, make_plan

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
        blind: AUC of classifiers that never see the model, works against control; .5 where the sets are alike.
    """

    folder: Path
    asked: Asked
    sets: Sets
    job: Job
    proposal: Proposal | None
    plan: ScanPlan
    blind: dict[str, Interval]


def prepare(sources: Sources, asked: Asked, folder: Path, console: Console) -> Prepared:
    """Pack and check everything that can be checked before a model is loaded; the same call goes on where it was stopped.

    Args:
        sources: of the images.
        asked: the model.
        folder: of the audit.
        console: where progress is shown.

    Raises:
        ConfigError: names the source, the option or the field.
        RaymiaError: a set is too small, or packing failed.
    """
    # A model that cannot be asked is said before an image is packed.
    job, proposal = job_of(asked, manifest_of(folder), f"{folder}/{RUN}")
    with on_ray("audit"):
        sets = make_sets(sources, str(folder), console)
    for split in (WORKS_SPLIT, CONTROL_SPLIT):
        if (count := sets.samples.get(split, 0)) < MINIMUM:
            raise ConfigError(f"{split}: {count} images are left; a set needs at least {MINIMUM}")
    plan = make_plan(job)
    write_job(job, folder)
    return Prepared(folder, asked, sets, job, proposal, plan, _blind(sets.manifest))


def _blind(manifest: str) -> dict[str, Interval]:
    table, _ = read_samples(manifest)
    table = table[table["split"].isin((WORKS_SPLIT, CONTROL_SPLIT))].reset_index(drop=True)
    suspected = table["split"].eq(WORKS_SPLIT).to_numpy()
    return {name: delong(scores, suspected) for name, scores in blind_scores(table, suspected).items()}


def commit_to(prepared: Prepared) -> Registration:
    """Register what will be tested, or hold it against what was registered.

    Raises:
        ConfigError: another audit was registered in the folder.
    """
    ledger = Ledger(prepared.job.run)
    storage = output_folder(str(prepared.folder))
    signals = signals_of(prepared.asked.access, prepared.plan.signals)
    new = registration_of(prepared.plan, prepared.sets, str(prepared.folder), prepared.asked.access, signals, version("raymia"))
    return register(storage, new, ledger.read_run() is not None)


def conduct(prepared: Prepared, registration: Registration, console: Console) -> tuple[Evidence, Bundle, Counts]:
    """Scan, test, write the page and seal the folder; the same call goes on where it was stopped.

    Args:
        prepared: an audit of which everything is known but the scores.
        registration: of it.
        console: where progress is shown.

    Raises:
        ConfigError, RaymiaError: the scan failed, or too little was scored.
    """
    folder, run = prepared.folder, prepared.job.run
    counts = run_plan(prepared.plan, console)
    evidence = make_evidence(run, prepared.asked.access, prepared.sets.lost, prepared.sets.twins)
    storage = output_folder(str(folder))
    storage.write(EVIDENCE_FILE, evidence.model_dump_json(indent=1).encode() + b"\n")
    write_evidence_page(storage, run, evidence, registration.registered, registration.digest())
    record = Ledger(run).require_scan()
    return evidence, seal(folder, version("raymia"), record.model.fingerprint, record.versions), counts
