"""`raymia audit` and `raymia verify`: an owner's question, from images to a sealed folder, and whether that still holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from raymia.cli.asking import Adapters, Changes, ClipOption, DryRun, Forwards, HostedService, JobFile, Model, Reference
from raymia.cli.console import Exit, Json, err, out
from raymia.cli.scanning import end, print_chosen
from raymia.errors import ConfigError

if TYPE_CHECKING:  # these need torch and Ray
    from raymia.evidence.asking import Asked
    from raymia.evidence.sets import Sources
    from raymia.evidence.works import Prepared


def audit(
    works: Annotated[
        str | None,
        typer.Argument(metavar="WORKS", help="The works: a folder of images, a table, tars, or MANIFEST[#SPLIT]."),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(help="Images certainly unseen, of the same kind: as WORKS; with --suspect a run directory, or RUN#SPLIT."),
    ] = None,
    model: Model = None,
    adapter: Adapters = None,
    reference: Reference = None,
    service: HostedService = None,
    job: JobFile = None,
    override: Changes = None,
    out_folder: Annotated[Path | None, typer.Option("--out", help="Folder for everything that is made.")] = None,
    captions: Annotated[str | None, typer.Option(help="Parquet or CSV of file and caption, for folders of images.")] = None,
    generated: Annotated[
        str | None, typer.Option(help="Images that a model made in the works' style: what they score is no sign of training.")
    ] = None,
    clip: ClipOption = None,
    budget: Forwards = None,
    register: Annotated[
        bool,
        typer.Option("--register", help="Write and hash what will be tested, and stop; without it the command goes on."),
    ] = False,
    dry_run: DryRun = False,
    suspect: Annotated[
        str | None, typer.Option(help="Instead of WORKS, scans that are done: a run directory, or RUN#SPLIT.")
    ] = None,
    access: Annotated[
        Literal["black", "grey", "white"], typer.Option(help="Signals of attacks that need more are left out.")
    ] = "white",
    features: Annotated[
        Literal["all", "cdi"],
        typer.Option(help="With --suspect, signals to test by: all, or the published set of CDI (arXiv 2411.12858)."),
    ] = "all",
    as_json: Json = False,
) -> None:
    """Test whether a body of work was trained on, as a set. From two folders of images to a report; resumes by itself."""
    from raymia.run.record import Access

    if control is None:
        raise ConfigError("--control: give images certainly unseen, of the same source as the works")
    if suspect is not None:
        if works is not None or out_folder is not None:
            raise ConfigError("--suspect tests scans that are done; leave out WORKS and --out")
        _of_runs(suspect, control, access, features, as_json)
        return
    if works is None:
        raise ConfigError("WORKS: give a folder, a table, tars or a manifest of the works; or --suspect with a run directory")
    if out_folder is None:
        raise ConfigError("--out: give a folder for everything that is made")
    if features != "all":
        raise ConfigError("--features goes with --suspect")
    if as_json and (dry_run or register):
        raise ConfigError("--json goes with a whole audit")
    from raymia.evidence.asking import Asked
    from raymia.evidence.sets import Sources

    asked = Asked(model, tuple(adapter or ()), reference, service, clip, job, tuple(override or ()), budget, Access(access))
    _of_works(Sources(works, control, generated, captions), asked, out_folder, dry_run, register, as_json)


def _of_runs(suspect: str, control: str, access: str, features: Any, as_json: bool) -> None:
    from raymia.cli.printing import print_audit
    from raymia.evaluation.audit import audit as audit_sets
    from raymia.run.record import Access

    found = audit_sets(suspect, control, Access(access), features=features)
    if as_json:
        out.show_json(found)
    else:
        print_audit(out, found)


def _of_works(sources: Sources, asked: Asked, folder: Path, dry_run: bool, stop: bool, as_json: bool) -> None:
    from raymia.cli.printing import print_counts
    from raymia.cli.printing_audit import print_evidence
    from raymia.evidence.works import commit_to, conduct, prepare
    from raymia.report.page import REPORT_FILE

    prepared = prepare(sources, asked, folder, err)
    _say_beforehand(prepared)
    if dry_run:
        return
    registration = commit_to(prepared)
    err.say(f"Registered {registration.registered}, before a score is computed: {registration.digest()}", whole=True)
    if stop:
        err.say("Publish or deposit this hash, and run the same command without --register.")
        return
    evidence, bundle, counts = conduct(prepared, registration, err)
    if as_json:
        out.show_json(evidence)
    else:
        print_counts(out, counts)
        print_evidence(out, evidence)
        out.say(f"Report: {folder}/{REPORT_FILE}", whole=True)
        out.say(f"The whole folder, in a hash: {bundle.digest()}", whole=True)
    end(counts, prepared.job.max_quarantined_fraction, "images could not be scored")


def _say_beforehand(prepared: Prepared) -> None:
    """What the sets are, whether anything tells them apart that never sees the model, and what the scan will cost."""
    from raymia.cli.printing_audit import print_sets

    print_sets(err, prepared.sets, prepared.blind)
    print_chosen(err, prepared.plan, prepared.proposal)


def verify(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a finished `raymia audit`.")],
    digest: Annotated[str | None, typer.Option(help="The hash of the whole folder, as it was noted when it was made.")] = None,
    model: Annotated[str | None, typer.Option(help="Where the model is on this machine, if it is elsewhere.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Another party's audit of the same images: hold every score against theirs.")
    ] = None,
    no_scores: Annotated[bool, typer.Option("--no-scores", help="Check the files alone, and load no model.")] = False,
    as_json: Json = False,
) -> None:
    """Hold every file of an audit against its digest, and score a hundredth of the images again."""
    from raymia.evidence.bundle import broken, read_bundle

    bundle = read_bundle(folder)
    if digest is not None and digest.strip().lower() != bundle.digest():
        raise ConfigError(f"--digest: {folder} is another folder than that: its hash is {bundle.digest()}")
    problems = broken(folder, bundle)
    agreement = None
    if not problems and not no_scores:
        from raymia.evidence.rescoring import compare, score_again

        agreement = score_again(folder, model) if against is None else compare(folder, against)
    if as_json:
        content = {"files": len(bundle.files), "problems": problems, "digest": bundle.digest()}
        out.show_json(content | {"agreement": None if agreement is None else agreement.model_dump()})
    else:
        from raymia.cli.printing_audit import print_verified

        print_verified(out, bundle, problems, agreement)
    if problems or (agreement is not None and not agreement.holds):
        raise typer.Exit(Exit.FAILED)
