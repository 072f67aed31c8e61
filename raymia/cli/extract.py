"""`raymia extract`: does a model, told the captions of works, give the works back?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raymia.cli.asking import Adapters, HostedService, Model
from raymia.cli.console import Json, err, out
from raymia.cli.scanning import end, print_costs
from raymia.errors import ConfigError

if TYPE_CHECKING:  # it needs torch and Ray
    from raymia.evidence.extraction import Prepared


def extract(
    manifest: Annotated[
        str | None, typer.Option(metavar="M.yaml", help="The works and their captions; by default those of --job.")
    ] = None,
    model: Model = None,
    adapter: Adapters = None,
    service: HostedService = None,
    job: Annotated[
        Path | None, typer.Option("--job", metavar="JOB.yaml", help="A job to take the model from, for whatever else.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="FIELD=VALUE of the job, such as attacks.extraction.steps=30.")
    ] = None,
    out_folder: Annotated[Path | None, typer.Option("--out", help="Folder for everything that is made.")] = None,
    top: Annotated[
        float | None,
        typer.Option(help="Percent of the captions to ask, those that move the model most; by default 1, or all of up to 50."),
    ] = None,
    draws: Annotated[int | None, typer.Option(min=1, help="Images of each caption; 10 by default.")] = None,
    copies: Annotated[
        str | None,
        typer.Option(help="Copy detector: sscd:FILE, dinov2:FOLDER-OR-ID or clip; by default clip where there is one."),
    ] = None,
    clip: Annotated[str | None, typer.Option(help="CLIP, as in a job, for --copies clip.")] = None,
    floor: Annotated[
        int, typer.Option(min=0, help="Captions to ask beside those, drawn at random from the rest, for the floor.")
    ] = 20,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, and print what it costs; score nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Tell a model the captions of works, and see whether it gives the works back. The same command resumes."""
    if out_folder is None:
        raise ConfigError("--out: give a folder for everything that is made")
    if top is not None and not 0 < top <= 100:
        raise ConfigError(f"--top {top:g}: expected a percentage above 0 and up to 100")
    if as_json and dry_run:
        raise ConfigError("--json goes with a whole extraction; leave out --dry-run")
    from raymia.cli.printing import print_counts
    from raymia.cli.printing_extraction import print_extraction
    from raymia.evidence.asking import Asked
    from raymia.evidence.extraction import Wanted, conduct, prepare
    from raymia.report.page import REPORT_FILE

    asked = Asked(model, tuple(adapter or ()), None, service, clip, job, tuple(override or ()))
    prepared = prepare(asked, manifest, copies, Wanted(top, draws, floor), out_folder)
    say_beforehand(prepared)
    if dry_run:
        return
    found, counts = conduct(prepared, err)
    if as_json:
        out.show_json(found)
    else:
        print_counts(out, counts)
        print_extraction(out, found)
        out.say(f"Report: {out_folder}/{REPORT_FILE}", whole=True)
    end(counts, prepared.generation.job.max_quarantined_fraction, "captions were not answered")


def say_beforehand(prepared: Prepared) -> None:
    """What the screening costs, and then each caption that is asked."""
    from raymia.cli.printing_seams import print_bill
    from raymia.scan.service import bill_of

    if prepared.screen is not None:
        print_costs(err, prepared.screen)
    expected = prepared.expected
    job = prepared.generation.job
    (attack,) = job.attacks.values()
    cost = attack.cost()
    often = "captions are" if expected is None else f"up to {expected:,} captions are"
    if job.hosted is not None:
        err.say(f"Then {often} asked, {cost.queries} images each.")
        print_bill(err, bill_of(job, prepared.generation.expected))
        return
    total = "" if expected is None else f", {expected * cost.forwards:,} in all"
    err.say(f"Then {often} asked, {cost.queries} images each: {cost.forwards:,} forwards a caption{total}.")
