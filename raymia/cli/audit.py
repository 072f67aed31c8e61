"""`raymia audit` and `raymia verify`: an owner's question, from images to a sealed folder, and whether that still holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from raymia.cli.asking import Adapters, Changes, ClipOption, DryRun, Forwards, HostedService, JobFile, Model, Reference
from raymia.cli.console import Exit, Json, err, out
from raymia.cli.scanning import end, print_chosen
from raymia.errors import ConfigError

if TYPE_CHECKING:  # these need torch and Ray
    from raymia.evidence.asking import Asked
    from raymia.evidence.beside import Beside
    from raymia.evidence.sets import Sources
    from raymia.evidence.timestamp import Stamp
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
    lists: Annotated[
        list[str] | None,
        typer.Option("--in", metavar="TABLE", help="Public training list to look the works up in first; may be repeated."),
    ] = None,
    provider: Annotated[
        str | None, typer.Option(metavar="CLAIMS.yaml", help="What the model's provider says of its training data.")
    ] = None,
    extract: Annotated[
        bool,
        typer.Option("--extract", help="Tell the model the captions of the works, too: does it give any back?"),
    ] = False,
    copies: Annotated[
        str | None, typer.Option(help="With --extract, copy detector: sscd:FILE, dinov2:FOLDER-OR-ID or clip (by default).")
    ] = None,
    clip: ClipOption = None,
    budget: Forwards = None,
    register: Annotated[
        bool,
        typer.Option("--register", help="Write and hash what will be tested, and stop; without it the command goes on."),
    ] = False,
    timestamp: Annotated[
        str | None, typer.Option(metavar="URL", help="Authority that stamps by RFC 3161 when that was written down.")
    ] = None,
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
        given = {"--in": lists, "--provider": provider, "--extract": extract, "--copies": copies, "--timestamp": timestamp}
        if named := [name for name, value in given.items() if value]:
            raise ConfigError(f"{named[0]} goes with WORKS; --suspect tests scans that are done")
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
    from raymia.evidence.beside import Beside
    from raymia.evidence.sets import Sources
    from raymia.evidence.timestamp import require_stamps

    if timestamp is not None:
        require_stamps(timestamp)
    beside = Beside(tuple(lists or ()), provider, extract, copies)
    asked = Asked(model, tuple(adapter or ()), reference, service, clip, job, tuple(override or ()), budget, Access(access))
    sources = Sources(works, control, generated, captions)
    _of_works(sources, asked, beside, out_folder, _Until(dry_run, register, timestamp), as_json)


@dataclass(frozen=True)
class _Until:
    """How far an audit goes."""

    dry_run: bool
    registered: bool
    authority: str | None


def _of_runs(suspect: str, control: str, access: str, features: Any, as_json: bool) -> None:
    from raymia.cli.printing import print_audit
    from raymia.evaluation.audit import audit as audit_sets
    from raymia.run.record import Access

    found = audit_sets(suspect, control, Access(access), features=features)
    if as_json:
        out.show_json(found)
    else:
        print_audit(out, found)


def _of_works(sources: Sources, asked: Asked, beside: Beside, folder: Path, until: _Until, as_json: bool) -> None:
    from raymia.cli.printing import print_counts
    from raymia.cli.printing_audit import print_evidence, print_stamp
    from raymia.evidence.works import commit_to, conduct, prepare
    from raymia.report.page import REPORT_FILE

    prepared = prepare(sources, asked, folder, err, beside)
    _say_beforehand(prepared)
    if until.dry_run:
        return
    registration, stamped = commit_to(prepared, until.authority)
    err.say(f"Registered {registration.registered}, before a score is computed: {registration.digest()}", whole=True)
    if stamped is not None:
        print_stamp(err, stamped)
    if until.registered:
        publish = "Publish or deposit this hash, and run" if stamped is None else "Run"
        err.say(f"{publish} the same command without --register.")
        return
    evidence, bundle, counts = conduct(prepared, registration, stamped, err)
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
    from raymia.cli.extract import say_beforehand
    from raymia.cli.printing_audit import print_said, print_sets

    print_sets(err, prepared.sets, prepared.blind)
    print_said(err, prepared.said)
    print_chosen(err, prepared.plan, prepared.proposal)
    if prepared.extraction is not None:
        err.say("The model is told the captions of the works, too:")
        say_beforehand(prepared.extraction)


def verify(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a finished `raymia audit`.")],
    digest: Annotated[str | None, typer.Option(help="The hash of the whole folder, as it was noted when it was made.")] = None,
    model: Annotated[str | None, typer.Option(help="Where the model is on this machine, if it is elsewhere.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Another party's audit of the same images: hold every score against theirs.")
    ] = None,
    roots: Annotated[
        Path | None, typer.Option(metavar="FILE.pem", help="Root certificates that the registration's time stamp must lead to.")
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
    stamped = None if problems else _stamp_of(folder, roots)
    agreement = None
    if not problems and not no_scores:
        from raymia.evidence.rescoring import compare, score_again

        agreement = score_again(folder, model) if against is None else compare(folder, against)
    if as_json:
        content = {"files": len(bundle.files), "problems": problems, "digest": bundle.digest()}
        content |= {"stamp": None if stamped is None else asdict(stamped)}
        out.show_json(content | {"agreement": None if agreement is None else agreement.model_dump()})
    else:
        from raymia.cli.printing_audit import print_stamp, print_verified

        print_verified(out, bundle, problems, agreement)
        if stamped is not None:
            print_stamp(out, stamped)
    if problems or (agreement is not None and not agreement.holds):
        raise typer.Exit(Exit.FAILED)


def _stamp_of(folder: Path, roots: Path | None) -> Stamp | None:
    """The time stamp of an audit's registration, checked."""
    from raymia.evidence.registration import STAMP_FILE, read_registration, stamp_of
    from raymia.run.storage import Storage

    storage = Storage(str(folder))
    registration = read_registration(storage)
    found = None if registration is None else stamp_of(storage, registration, roots)
    if roots is not None and found is None:
        raise ConfigError(f"--roots: {folder} holds no time stamp ({STAMP_FILE})")
    return found
