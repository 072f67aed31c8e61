"""From what an owner says of a model to a job: which attacks, at which size, into which run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raymia.attacks.base import ATTACKS, Access
from raymia.config import Job, override_field, parse_job, read_job
from raymia.curation.derive import output_folder
from raymia.documents import write_yaml
from raymia.errors import ConfigError
from raymia.replica.folder import find_pipeline
from raymia.scan.budget import CONTROLS, Proposal, propose
from raymia.scan.service import possible
from raymia.shipped import model_folder

JOB_FILE, RUN = "job.yaml", "run"
"""In the folder of a question: the job, and its run directory."""
FORWARDS = 20
"""Forwards per image of the attacks that are chosen where a person names neither attacks nor a budget."""


@dataclass(frozen=True)
class Asked:
    """The model that is asked about, as a person names it.

    Attributes:
        model: as `replica.model` of a job; of a service what it calls the model.
        adapters: files on the model, such as a LoRA.
        reference: ``base``, or a model close to the attacked one that was not trained on the works.
        service: name of a hosted service, whose further fields are `changes`.
        clip: as in a job.
        job_file: a job to take everything from but manifest and run.
        changes: ``FIELD=VALUE`` of the job.
        budget: forwards per image of the attacks that are chosen; none for the job's own attacks, or for `FORWARDS`.
        access: what the attacker can do.
    """

    model: str | None = None
    adapters: tuple[str, ...] = ()
    reference: str | None = None
    service: str | None = None
    clip: str | None = None
    job_file: Path | None = None
    changes: tuple[str, ...] = ()
    budget: int | None = None
    access: Access = Access.WHITE


def job_of(asked: Asked, manifest: str, run: str) -> tuple[Job, Proposal | None]:
    """The job that asks a model about the samples of a manifest.

    Args:
        asked: the model.
        manifest: of the samples.
        run: run directory.

    Returns:
        The job, and how its attacks were chosen, where a budget chose them.

    Raises:
        ConfigError: names what is missing, or goes with something else.
    """
    content = _content(asked) | {"manifest": manifest, "run": run}
    for change in asked.changes:
        override_field(content, change)
    source = "the question" if asked.job_file is None else str(asked.job_file)
    chosen = bool(content.get("attacks")) and asked.budget is None
    job = parse_job(content if chosen else content | {"attacks": {name: {} for name in CONTROLS}}, source)
    if job.hosted is None:
        job = _at_native_size(job, content, source)
        return (job, None) if chosen else propose(job, asked.budget or FORWARDS)
    if asked.budget is not None:
        raise ConfigError(f"--budget: service {job.hosted.service} offers images alone, and no forwards; leave it out")
    return (job if chosen else parse_job(content | {"attacks": _of_service(job)}, source)), None


def write_job(job: Job, folder: Path) -> None:
    """Write a job as it was resolved into the folder of what is asked."""
    output_folder(str(folder)).write(JOB_FILE, write_yaml(job.model_dump(mode="json")).encode())


def _content(asked: Asked) -> dict[str, Any]:
    if asked.job_file is not None:
        given = {"--model": asked.model, "--adapter": asked.adapters, "--reference": asked.reference}
        given |= {"--service": asked.service, "--clip": asked.clip}
        if named := [name for name, value in given.items() if value]:
            raise ConfigError(f"{named[0]}: the job {asked.job_file} says it; change its field with --set, or leave --job out")
        return read_job(asked.job_file, None, None)
    if asked.model is None and asked.service is None:
        raise ConfigError("--model: give a folder, a hub id, a single .safetensors file or `testbed`; or --service, or --job")
    section: dict[str, Any] = {"model": asked.model}
    if asked.service is not None:
        section["service"] = asked.service
    if asked.adapters:
        section["adapters"] = [{"path": path} for path in asked.adapters]
    content: dict[str, Any] = {"replica": section, "access": str(asked.access), "clip": asked.clip}
    if asked.reference is not None:
        content["reference"] = asked.reference if asked.reference == "base" else {"model": asked.reference}
    return content


def _at_native_size(job: Job, content: dict[str, Any], source: str) -> Job:
    """Images have the size that the model was trained at, where nobody says another."""
    if "resolution_px" in content["replica"]:
        return job
    found = find_pipeline(model_folder(job.model.model), False, job.model.revision, job.model.said())
    changed = {**job.model_dump(mode="json"), "replica": job.model.model_dump(mode="json")}
    changed["replica"]["resolution_px"] = found.family.native_px(found.path)
    return parse_job(changed, source)


def _of_service(job: Job) -> dict[str, Any]:
    """The attacks that a service allows, at their defaults; those that look for copies are a command of their own."""
    assert job.hosted is not None
    attacks = {name: kind() for name, kind in ATTACKS.all().items() if name not in CONTROLS and not kind.shows}
    return {name: {} for name in possible(attacks, job.hosted.offers())}
