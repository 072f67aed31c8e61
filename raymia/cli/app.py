"""The command line: thin commands that parse, call and print."""

from __future__ import annotations

import gc
import json
import os
import shlex
import sys
from importlib.metadata import version as package_version
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import BaseModel

from raymia.cli import logs, stopping
from raymia.cli.audit import audit, verify
from raymia.cli.bench import bench_app
from raymia.cli.canary import canary_app
from raymia.cli.claims import data_claims
from raymia.cli.console import Exit, Json, err, out
from raymia.cli.data import data_app
from raymia.cli.extract import extract
from raymia.cli.lookup import data_lookup
from raymia.cli.scanning import costs_of, end, print_costs
from raymia.cli.stopping import StoppableGroup, exit_code
from raymia.cli.testbed import testbed_app
from raymia.errors import ConfigError, RaymiaError
from raymia.urls import public

if TYPE_CHECKING:  # doctor needs torch and Ray
    from raymia.scan.doctor import Check

app = typer.Typer(
    cls=StoppableGroup,
    help="Was this image in the training set of this diffusion model?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
data_app.command("lookup")(data_lookup)
data_app.command("claims")(data_claims)
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")
app.add_typer(canary_app, name="canary")
app.add_typer(testbed_app, name="testbed")
app.command()(audit)
app.command()(extract)
app.command()(verify)

RunOption = Annotated[str | None, typer.Option("--run", help="Run directory: a path or fsspec URL.")]
JobFile = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="Job file.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="FIELD=VALUE of the job, such as pool.batch_size=8.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        out.say(f"raymia {package_version('raymia')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    log_format: Annotated[
        Literal["text", "json"],
        typer.Option("--log", envvar="RAYMIA_LOG", help="Log lines for people, or as JSON with a line per unit."),
    ] = "text",
) -> None:
    if debug:
        os.environ["RAYMIA_DEBUG"] = "1"
    logs.set_up(err, log_format == "json")


@app.command()
def demo(
    run: RunOption = None,
    lora: Annotated[
        bool, typer.Option("--lora", help="Ask of a LoRA what it was trained on, held against its base, in a minute or two.")
    ] = False,
) -> None:
    """Scan the shipped test bed on a local Ray and report: no download, a few minutes."""
    from raymia.config import load_job
    from raymia.testbed import DEMO_JOB, DEMO_LORA_JOB

    job = load_job(DEMO_LORA_JOB, run=run or "runs/demo_lora") if lora else load_job(DEMO_JOB, run=run or "runs/demo")
    _scan_and_report(job, report=True)


@app.command()
def scan(
    job_file: JobFile,
    override: Overrides = None,
    run: RunOption = None,
    control_model: Annotated[
        str | None,
        typer.Option(
            help="A model that cannot have seen any sample: scanned with the same attacks, to hold the scores against."
        ),
    ] = None,
    labels_do_not_hold: Annotated[
        bool, typer.Option("--labels-do-not-hold", help="Scan although the manifest's labels were not made for this model.")
    ] = False,
    budget: Annotated[
        int | None,
        typer.Option(min=1, help="Forwards per image: run the attacks that the leaderboard proposes for it, not the job's."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the job and print what it costs; load no model, score nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: print JSON instead of a table.")] = False,
) -> None:
    """Score a manifest with a replica and attacks. The same command resumes a scan that was stopped."""
    from raymia.cli.printing import print_proposal
    from raymia.config import load_job

    if control_model is not None:
        override = [*(override or []), f"control_model={json.dumps(control_model, ensure_ascii=False)}"]
    if labels_do_not_hold:
        override = [*(override or []), "labels_do_not_hold=true"]
    job, proposal = (load_job(job_file, override, run), None) if budget is None else _within(budget, job_file, override, run)
    if proposal is not None and not as_json:
        print_proposal(out, proposal)
    if dry_run:
        _show_costs(job, as_json, proposal)
    elif as_json:
        raise ConfigError("--json goes with --dry-run; the results of a scan come as JSON from `raymia evaluate RUN --json`")
    else:
        _scan_and_report(job, report=False)


def _within(budget: int, job_file: Path, override: list[str] | None, run: str | None) -> tuple[Any, Any]:
    """The job with attacks for a budget, and what is to be said of them."""
    from raymia.config import load_job
    from raymia.scan.budget import CONTROLS, propose

    chosen = next((change for change in override or [] if change.partition("=")[0].partition(".")[0] == "attacks"), None)
    if chosen is not None:
        raise ConfigError(f"--set {chosen}: --budget chooses the attacks; leave one of them out")
    controls = json.dumps({name: {} for name in CONTROLS})
    return propose(load_job(job_file, [*(override or []), f"attacks={controls}"], run), budget)


def _show_costs(job: Any, as_json: bool, proposal: Any) -> None:
    from raymia.scan.plan import make_plan

    plan = make_plan(job)
    if not as_json:
        print_costs(out, plan)
        return
    costs = costs_of(plan)
    for name in ("service", "memory"):
        costs[name] = costs[name].model_dump() if isinstance(costs[name], BaseModel) else costs[name]
    out.show_json(costs | {"proposal": None if proposal is None else proposal.model_dump(mode="json")})


def _scan_and_report(job: Any, report: bool) -> None:
    from raymia.cli.printing import print_counts
    from raymia.cli.printing_seams import print_asked
    from raymia.run.ledger import Ledger
    from raymia.scan.pipeline import run_scan

    counts = run_scan(job, err)
    print_counts(out, counts)
    if job.hosted is not None:
        print_asked(out, Ledger(job.run).require_scan().service)
    if report:
        _evaluate_run(job.run)
    else:
        out.say(f"Next: raymia evaluate {public(job.run)}")
    end(counts, job.max_quarantined_fraction, "samples could not be scored")


@app.command()
def evaluate(
    source: Annotated[
        str, typer.Argument(metavar="RUN", help="Run directory; with --blind-only also a manifest, or a Parquet or CSV table.")
    ],
    blind_only: Annotated[
        bool,
        typer.Option("--blind-only", help="What the data set gives away by itself: no model, no scores; writes nothing."),
    ] = False,
    calibrate_on: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Choose signal, threshold and probabilities on this run instead of on a part of RUN."),
    ] = None,
    prior: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of members among the images in question, for probabilities.")
    ] = 0.5,
    as_json: Json = False,
) -> None:
    """Compute metrics.json and the report of a run directory."""
    if not 0.0 < prior < 1.0:
        raise ConfigError(f"--prior {prior:g}: expected a share above 0 and below 1")
    if not blind_only:
        _evaluate_run(source, as_json, prior, calibrate_on)
    elif calibrate_on is not None:
        raise ConfigError("--calibrate-on needs scores; leave out --blind-only")
    else:
        _evaluate_blind(source, as_json)


def _evaluate_run(run: str, as_json: bool = False, prior: float = 0.5, calibrate_on: str | None = None) -> None:
    from raymia.cli.printing import print_metrics
    from raymia.evaluation.metrics import evaluate_run
    from raymia.report.page import write_report
    from raymia.run.ledger import Ledger

    ledger = Ledger(run)
    other = None if calibrate_on is None else Ledger(calibrate_on)
    evaluation = evaluate_run(ledger, prior=prior, calibrate_on=other)
    page = write_report(ledger, evaluation)
    if as_json:
        out.show_json(evaluation.metrics)
        return
    print_metrics(out, evaluation.metrics)
    out.say(f"Report: {page}", whole=True)


def _evaluate_blind(source: str, as_json: bool) -> None:
    from raymia.cli.printing import print_counts, print_metrics
    from raymia.evaluation.sources import evaluate_blind

    metrics = evaluate_blind(source).metrics
    if as_json:
        out.show_json(metrics)
        return
    print_metrics(out, metrics)
    print_counts(out, metrics.counts)


@app.command()
def sweep(
    job_file: JobFile,
    over: Annotated[
        list[str] | None,
        typer.Option(help="FIELD=VALUE,VALUE of the job; repeat it for a grid. By default the map `sweep` of the job file."),
    ] = None,
    override: Overrides = None,
    run: Annotated[str | None, typer.Option("--run", help="Directory of the sweep: a path or fsspec URL.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check every scan of the grid and list them; score nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Vary fields of a job and show what each does to each attack. The same command resumes a sweep that was stopped."""
    from raymia.cli.printing import print_analysis, print_grid
    from raymia.evaluation.factors import analyse
    from raymia.report.page import write_report
    from raymia.report.sweep_page import write_sweep_report
    from raymia.run.ledger import Ledger
    from raymia.scan.plan import make_plan
    from raymia.scan.sweep import load_sweep, run_sweep

    factors, cells, folder = load_sweep(job_file, over, override, run)
    for cell in cells:
        make_plan(cell.job)
    if dry_run:
        print_grid(out, factors, cells)
        return
    run_sweep(factors, cells, folder, err)
    analysis, evaluations = analyse(folder)
    for cell_run, evaluation in evaluations.items():
        write_report(Ledger(f"{folder}/{cell_run}"), evaluation)
    page = write_sweep_report(Ledger(folder), analysis, job_file.name)
    if as_json:
        out.show_json(analysis)
        return
    print_analysis(out, analysis)
    out.say(f"Report: {page}", whole=True)


@app.command()
def submit(
    job_file: JobFile,
    address: Annotated[
        str | None,
        typer.Option(envvar="RAY_DASHBOARD_ADDRESS", help="Dashboard of the cluster, such as http://127.0.0.1:8265."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show the job's log, and end with the job's own exit code.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="With --follow: Ctrl-C stops the job too.")] = False,
    override: Overrides = None,
    run: RunOption = None,
    runtime_env: Annotated[
        Path | None, typer.Option(help="Ray's runtime environment; by default jobs/runtime_env.yaml where it is there.")
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Check the job and list the files that would travel; hand nothing in.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --list: print JSON.")] = False,
) -> None:
    """Hand a scan to a Ray cluster as a job. The same command hands in the next attempt, which resumes."""
    from raymia.cli.submit import announce, make_order, show_parcel
    from raymia.engine.submission import Cluster, load_runtime_env

    if cancel and not follow:
        raise ConfigError("--cancel goes with --follow: without it nothing waits for Ctrl-C")
    if as_json and not listed:
        raise ConfigError("--json goes with --list")
    environment, parcel = load_runtime_env(runtime_env)
    order = make_order(job_file, override or [], run, parcel)
    if listed:
        show_parcel(parcel, as_json)
        return
    if address is None:
        raise ConfigError(
            "--address: give the cluster's dashboard, such as http://127.0.0.1:8265, or set RAY_DASHBOARD_ADDRESS"
        )
    cluster = Cluster(address)
    announce(parcel)
    job = cluster.submit(order, environment, parcel)
    verb = "is running already" if job.already_running else f"submitted, attempt {job.attempt}"
    err.say(f"{job.job_id} {verb}", whole=True)
    if not follow:
        err.say(f"Follow it: {_same_command(job_file, cluster.address, override, run, runtime_env)} --follow", whole=True)
        return
    try:
        code = cluster.follow(job.job_id, lambda text: out.print(text.replace("\r", "\n"), end="", soft_wrap=True))
    except KeyboardInterrupt:
        if cancel:
            cluster.cancel(job.job_id)
            err.say(f"{job.job_id} is being stopped; what is committed is kept", whole=True)
        else:
            err.say(f"{job.job_id} goes on; the same command follows it again", whole=True)
        raise typer.Exit(exit_code()) from None
    raise typer.Exit(code)


def _same_command(job_file: Path, address: str, override: list[str] | None, run: str | None, runtime_env: Path | None) -> str:
    """The words that hand in the same job again: without its changes it would be another one."""
    words = ["raymia", "submit", str(job_file), "--address", address]
    words += [word for change in override or () for word in ("--set", change)]
    words += ["--run", run] if run else []
    return shlex.join([*words, "--runtime-env", str(runtime_env)] if runtime_env else words)


@app.command()
def status(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run directory: a path or fsspec URL.")], as_json: Json = False
) -> None:
    """Show how a scan is doing: units, rate, time left, quarantine by reason. From any machine, while it runs or after."""
    from raymia.cli.printing import print_status
    from raymia.run.status import read_status

    found = read_status(run)
    if as_json:
        out.show_json(found)
    else:
        print_status(out, found)


@app.command()
def doctor(
    job_file: Annotated[Path | None, typer.Option("--job", help="Check this job's manifest, weights and storage too.")] = None,
    address: Annotated[str | None, typer.Option(help="Dashboard of a remote cluster, whose every node is looked at.")] = None,
    cluster: Annotated[bool, typer.Option("--cluster", help="Look at every node of the cluster that this runs in.")] = False,
    as_json: Json = False,
) -> None:
    """Look for what keeps a scan from running here, or on a cluster, and say how to mend it."""
    from raymia.cli.printing import print_checks
    from raymia.config import load_job
    from raymia.scan.doctor import examine

    job = None if job_file is None else load_job(job_file)
    checks = examine(job, cluster) if address is None else _examine_there(address, job_file)
    if as_json:
        out.show_json([check.model_dump() for check in checks])
    else:
        print_checks(out, checks)
    if any(check.state == "fault" for check in checks):
        raise typer.Exit(Exit.FAILED)


def _examine_there(address: str, job_file: Path | None) -> list[Check]:
    """The checks of a remote cluster's nodes."""
    from raymia.cli.submit import announce, travelling
    from raymia.engine.submission import Cluster, load_runtime_env
    from raymia.scan.doctor import parse_checks

    environment, parcel = load_runtime_env(None)
    inside = None if job_file is None else travelling(job_file, parcel)
    cluster = Cluster(address)
    announce(parcel)
    return parse_checks(cluster.examine(inside, environment, parcel), cluster.address)


@app.command()
def attacks(as_json: Json = False) -> None:
    """List the attacks: access, signals, cost per image at their defaults, reference."""
    from raymia.attacks.base import ATTACKS
    from raymia.cli.printing import print_attacks

    known = {name: kind() for name, kind in ATTACKS.all().items()}
    if not as_json:
        print_attacks(out, known)
        return
    rows = [
        {
            "attack": name,
            "access": str(attack.access),
            "signals": [signal.name for signal in attack.signals()],
            "cost": dict(attack.cost()),
            "reference": attack.reference,
        }
        for name, attack in known.items()
    ]
    out.show_json(rows)


@app.command()
def families(
    of: Annotated[
        str | None, typer.Option("--of", metavar="FILE", help="Say what a single file is instead: a checkpoint or an adapter.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the model families that can be attacked: models, native resolution, parts."""
    from raymia.cli.printing_seams import print_families, print_file
    from raymia.replica.families import FAMILIES
    from raymia.replica.parts import beside_weights, weight_stems

    if of is not None:
        facts = _facts_of(of)
        out.show_json(facts) if as_json else print_file(out, facts)
        return
    known = [kind() for kind in FAMILIES.all().values()]
    if not as_json:
        print_families(out, known)
        return
    rows = [
        {
            "family": family.name,
            "models": family.title,
            "resolution_px": family.resolution_px,
            "levels": family.levels,
            "parts": list(weight_stems(family.parts)),
            "files": list(beside_weights(family.parts)),
            "refused": family.refused,
        }
        for family in known
    ]
    out.show_json(rows)


def _facts_of(file: str) -> dict[str, Any]:
    """What a checkpoint or an adapter is, by its header."""
    from raymia.replica.adapters import described, is_adapter
    from raymia.replica.inversions import described_inversion, is_inversion
    from raymia.replica.single_file import look

    path = Path(file).expanduser()
    if path.suffix == ".safetensors" and path.is_file():
        if is_inversion(path):
            return described_inversion(path)
        if is_adapter(path):
            return described(path)
    return look(file).described()


@app.command()
def services(as_json: Json = False) -> None:
    """List the services that black-box attacks can ask: what each is, what can be asked of it and which attacks it allows."""
    from raymia.attacks.base import ATTACKS
    from raymia.cli.printing_seams import print_services
    from raymia.scan.service import possible
    from raymia.services.protocol import SERVICES

    known = list(SERVICES.all().values())
    attacks = {name: kind() for name, kind in ATTACKS.all().items()}
    allowed = {kind.name: possible(attacks, kind.capabilities) for kind in known}
    if not as_json:
        print_services(out, known, allowed)
        return
    rows = [
        {
            "service": kind.name,
            "what": kind.title,
            "capabilities": sorted(kind.capabilities),
            "attacks": allowed[kind.name],
            "sizes": kind.sizes,
            "rewrites_prompts": kind.rewrites_prompts,
            "options": {name: field.description for name, field in kind.model_fields.items()},
        }
        for kind in known
    ]
    out.show_json(rows)


COLLECT_AFTER = 10_000
"""Objects that are made before Python looks for cycles among them. At its own 700 that took a sixth of a command's start: the
libraries that a command loads are half a million objects, which all stay."""


def main() -> None:
    """Run the command line; errors and signals end in one line and an exit code."""
    gc.set_threshold(COLLECT_AFTER)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names hold what not every terminal can show
    stopping.listen()
    try:
        app()
    except RaymiaError as error:
        if os.environ.get("RAYMIA_DEBUG"):
            raise
        err.say(f"raymia: {error}", whole=True)
        sys.exit(Exit.USAGE if isinstance(error, ConfigError) else Exit.FAILED)
    finally:
        gc.freeze()  # or they would all be looked through once more, as the process ends
