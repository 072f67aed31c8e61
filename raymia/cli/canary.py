"""`raymia canary`: a randomised hold-back, for those who have yet to publish."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from raymia.cli.asking import Adapters, Changes, ClipOption, DryRun, Forwards, HostedService, JobFile, Model, Reference
from raymia.cli.console import Json, err, out
from raymia.cli.scanning import end, print_chosen
from raymia.errors import ConfigError

if TYPE_CHECKING:  # these need torch and Ray
    from raymia.evidence.asking import Asked
    from raymia.evidence.canary import Plan

canary_app = typer.Typer(
    help="For works that are yet to be published: publish a half that is drawn by lot, and later ask whether a model knows it.",
    no_args_is_help=True,
)


@canary_app.command("plan")
def canary_plan(
    works: Annotated[Path, typer.Argument(metavar="WORKS", help="Folder of the images, none of them published yet.")],
    out_file: Annotated[Path, typer.Option("--out", metavar="PLAN.json", help="Plan to write, and two lists beside it.")],
    unit: Annotated[
        Literal["file", "folder"],
        typer.Option(help="What is published or kept back as one: each file, or each folder in WORKS, such as a series."),
    ] = "file",
    captions: Annotated[
        str | None, typer.Option(help="Parquet or CSV of file and caption; by default captions are in files beside the images.")
    ] = None,
    share: Annotated[float, typer.Option(help="Share to publish. A half finds the most.")] = 0.5,
    attack: Annotated[
        list[str] | None, typer.Option(help="Declare what will be tested: attacks whose main signals count; may be repeated.")
    ] = None,
    signal: Annotated[
        list[str] | None, typer.Option(help="Instead, single signals that count, such as `loss`; may be repeated.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="FIELD=VALUE of the job that will ask, which fixes it: attacks.loss.draws=1, replica.resolution_px=512.",
        ),
    ] = None,
    redraws: Annotated[
        int | None, typer.Option(help="Draws that the true one will be held against; 99,999 by default.")
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="Chance of a false finding that is put up with; 0.05 by default.")] = None,
    as_json: Json = False,
) -> None:
    """Draw by lot which works to publish and which to keep back, and print a hash that commits you to the draw."""
    from raymia.cli.printing_canary import print_plan, summary
    from raymia.evaluation.canary import REDRAWS
    from raymia.evidence.canary import draw_plan, lists_of, require_new, write_plan
    from raymia.evidence.canary_declared import ALPHA, declared

    require_new(out_file)
    bounds = REDRAWS if redraws is None else redraws, ALPHA if alpha is None else alpha
    test = declared(attack or [], signal or [], *bounds, override or [])
    drawn = draw_plan(works, unit, captions, share, test, err)
    write_plan(drawn.plan, out_file)
    if as_json:
        out.show_json(summary(drawn, out_file))
    else:
        print_plan(out, drawn, out_file, lists_of(out_file))


@canary_app.command("test")
def canary_test(
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN.json", help="The plan, as it was written.")],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for everything that is made.")],
    works: Annotated[
        Path | None, typer.Option("--works", help="Folder of all works, published and kept back, as it was planned.")
    ] = None,
    model: Model = None,
    adapter: Adapters = None,
    reference: Reference = None,
    service: HostedService = None,
    job: JobFile = None,
    override: Changes = None,
    clip: ClipOption = None,
    budget: Forwards = None,
    run: Annotated[
        str | None, typer.Option("--run", help="Instead of --works and a model, a finished scan of all works: its directory.")
    ] = None,
    commitment: Annotated[
        str | None, typer.Option(metavar="HEX", help="The hash that was published: refuse any other plan.")
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Ask whether a model knows the published half better than the half that was kept back. Resumes by itself."""
    from raymia.cli.printing_canary import print_result
    from raymia.evidence.asking import Asked
    from raymia.evidence.canary import read_plan
    from raymia.evidence.canary_scan import of_run, require_commitment

    plan = read_plan(plan_file)
    if commitment is not None:
        require_commitment(plan, commitment)
    asked = Asked(model, tuple(adapter or ()), reference, service, clip, job, tuple(override or ()), budget)
    if run is None:
        _by_scan(plan, works, asked, out_folder, commitment is not None, dry_run, as_json)
        return
    if works is not None or dry_run or asked != Asked():
        raise ConfigError("--run is of a scan that is done; leave out --works, --dry-run and all that says which model to ask")
    result = of_run(plan, run, out_folder, commitment is not None)
    if as_json:
        out.show_json(result)
    else:
        print_result(out, result)


def _by_scan(
    plan: Plan, works: Path | None, asked: Asked, folder: Path, commitment_held: bool, dry_run: bool, as_json: bool
) -> None:
    from raymia.cli.printing import print_counts
    from raymia.cli.printing_canary import print_result
    from raymia.evidence.canary_scan import conduct, prepare

    if works is None:
        raise ConfigError("--works: give the folder of all works, published and kept back; or --run with a finished scan")
    if as_json and dry_run:
        raise ConfigError("--json goes with a whole test")
    prepared = prepare(plan, works, asked, folder, err)
    print_chosen(err, prepared.scan, prepared.proposal)
    if dry_run:
        return
    result, counts = conduct(prepared, commitment_held, err)
    if as_json:
        out.show_json(result)
    else:
        print_counts(out, counts)
        print_result(out, result)
    end(counts, prepared.job.max_quarantined_fraction, "works could not be scored")
