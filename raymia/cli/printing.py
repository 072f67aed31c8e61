"""What people read on the terminal: tables and lines, verdict first."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from raymia.cli.console import Terminal, plain_table
from raymia.evaluation.audit import Audit
from raymia.evaluation.factors import FactorAnalysis, along, value_text
from raymia.evaluation.intervals import Interval, shown
from raymia.evaluation.metric_table import Column, MetricTable, Row, metric_table
from raymia.evaluation.results import RunMetrics
from raymia.run.record import Access, Counts
from raymia.run.status import Status, duration
from raymia.run.sweep import Factor

if TYPE_CHECKING:  # these need torch or Ray, which printing does not
    from raymia.attacks.base import Attack
    from raymia.replica.memory import Memory
    from raymia.scan.budget import Proposal
    from raymia.scan.doctor import Check
    from raymia.scan.sweep import Cell

COSTS = {"forwards": "fwd", "backwards": "bwd", "encodes": "enc", "decodes": "dec", "queries": "query"}
VERDICTS = {"explained by the data set": "explained"}
COST_LEGEND = (
    "fwd, bwd: forwards and backwards of the denoiser; enc, dec: of the autoencoder; query: images asked of a black box"
)


def print_metrics(out: Terminal, metrics: RunMetrics) -> None:
    """Verdict, then the primary signals, then what to know about them."""
    verdict = metrics.verdict
    out.say(f"Verdict: {verdict.verdict or 'none'}. {verdict.statement}")
    print_signals(out, metric_table(metrics))
    if metrics.noise_floor:
        low, high = metrics.noise_floor.auc
        out.say(f"Noise floor: AUC {low:.3f} to {high:.3f}; {metrics.signals_tried} signals tried.")
    if metrics.transfer:
        print_transfer(out, metrics)
    if metrics.embedding_shift:
        shift = metrics.embedding_shift
        out.say(
            f"Fréchet distance between the splits' embeddings: {shift.distance:.4f}; random halves: at most "
            f"{shift.of_random_halves:.4f}.",
        )
    for warning in metrics.warnings:
        out.say(f"Note: {warning}")


def print_signals(out: Terminal, table: MetricTable) -> None:
    """The primary signals in tables that fit the terminal: each begins with the signals' names, and the last may be narrow."""
    if not table.primary:
        return
    name, *columns = [[column.heading, *(_cell(column, row) for row in table.primary)] for column in table.on_terminal]
    title = "Primary signals (95 % intervals)"
    for block in side_by_side(name, columns, out.width):
        drawn = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
        for heading, *_ in block:
            drawn.add_column(heading, no_wrap=True)
        for cells in list(zip(*block, strict=True))[1:]:
            drawn.add_row(*cells)
        out.print(drawn)
        title = "The same signals, continued"


def side_by_side(name: list[str], columns: list[list[str]], width: int) -> Iterator[list[list[str]]]:
    """Columns in as few blocks as fit a width, in order.

    Args:
        name: first column of every block.
        columns: the others, headings included.
        width: in characters, of a table of `box.SIMPLE` with a blank beside each cell.
    """
    block, used = [name], 3 + max(map(len, name))
    for column in columns:
        wide = 2 + max(map(len, column))
        if len(block) > 1 and used + wide > width:
            yield block
            block, used = [name], 3 + max(map(len, name))
        block.append(column)
        used += wide
    yield block


def _cell(column: Column, row: Row) -> str:
    cell = row.cells[column.name]
    if column.name == "verdict":
        return VERDICTS.get(str(cell), str(cell)) if cell else row.access
    return interval_text(cell, column.sign) if isinstance(cell, Interval) else column.text(row)


def interval_text(value: Interval | None, sign: str = "") -> str:
    """``.856 [.832 .877]``, or a dash: three of them fit into 80 columns beside a name.

    Args:
        sign: ``+`` for differences.
    """
    if value is None:
        return "-"
    written = f"{value.value:{sign}.3f} [{value.low:{sign}.3f} {value.high:{sign}.3f}]"
    return re.sub(r"(?<![0-9])0\.", ".", written)


def print_transfer(out: Terminal, metrics: RunMetrics) -> None:
    """The best signal chosen beforehand, at 1 % FPR, of the widest access."""
    row = next(row for row in reversed(metrics.transfer) if row.target_fpr == 0.01)
    chosen = f"on {metrics.calibrated_on}" if metrics.calibrated_on else "on half of the samples"
    out.say(
        f"Chosen {chosen} for 1 % FPR, of {row.candidates} signals: {row.signal}, with TPR {shown(row.tpr)} at FPR "
        f"{shown(row.fpr)} here.",
    )


def print_counts(out: Terminal, counts: Counts) -> None:
    """Every sample accounted for, in one line."""
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts.by_reason.items())
    flags = ", ".join(f"{flag} {count}" for flag, count in counts.flagged.items())
    line = f"read {counts.read} = scored {counts.scored} + quarantined {counts.quarantined}"
    line += f" ({reasons})" if reasons else ""
    out.say(line + (f"; scored with a remark: {flags}" if flags else ""))


def print_audit(out: Terminal, audit: Audit) -> None:
    """The statement, both tests, then p against size, false positives and blind baselines."""
    out.say(audit.statement)
    test = audit.test
    units = (test.units_suspect, test.units_control)
    if units != (test.n_suspect, test.n_control):
        out.say(f"Works that belong together count once: {units[0]} suspect and {units[1]} control units.")
    fitted = "too few to fit" if test.p_splits is None else f"p = {test.p_splits:.2g}"
    marks = [" (counts)" if test.counted == name else "" for name in ("mean", "splits")]
    if audit.features == "cdi":
        out.say(f"By the {test.signals} features of CDI (arXiv 2411.12858).")
    kind = "primary signals" if audit.features == "all" else "features"
    out.say(f"Mean of {test.primary} {kind}{marks[0]}: p = {test.p_mean:.2g}")
    out.say(f"Direction fitted to {test.signals} {kind.removeprefix('primary ')}, over 50 splits{marks[1]}: {fitted}")
    table = Table(title=f"{test.n_suspect} suspect and {test.n_control} control samples: the mean, on random subsets")
    for heading in ("of each", "median p", "share of draws with p < 0.05"):
        table.add_column(heading, justify="right")
    for point in test.by_size:
        table.add_row(str(point.n), f"{point.median_p:.2g}", f"{point.significant:.0%}")
    out.print(table)
    if test.false_positives is not None:
        out.say(f"Control against control: p < 0.05 in {test.false_positives:.1%} of draws (at most 5 % is due).")
    for name, auc in audit.blind.items():
        out.say(f"Blind, suspect against control, {name}: AUC {shown(auc)}")


def print_attacks(out: Terminal, attacks: Mapping[str, Attack]) -> None:
    """Access, cost, number of signals and source of each attack."""
    table = cost_table("Attacks, and what each costs per image at its defaults")
    table.add_column("signals", justify="right")
    table.add_column("arXiv", no_wrap=True)
    for name, attack in sorted(attacks.items(), key=lambda entry: list(Access).index(entry[1].access)):
        cost = [show_count(getattr(attack.cost(), kind)) for kind in COSTS]
        arxiv = attack.reference.partition("arXiv ")[2]
        table.add_row(name, str(attack.access), *cost, str(len(attack.signals())), arxiv)
    out.print(table)


def print_cost(
    out: Terminal,
    attacks: Mapping[str, Attack],
    alone: Mapping[str, Mapping[str, int]],
    apart: Mapping[str, int],
    together: Mapping[str, int],
    samples: int | None,
    in_total: Mapping[str, int | None],
) -> None:
    """What a job costs per image, each attack alone and all together, and in total."""
    table = cost_table("Cost per image")
    for name, attack in attacks.items():
        table.add_row(name, str(attack.access), *(show_count(alone[name][kind]) for kind in COSTS))
    table.add_section()
    table.add_row("each alone", "", *(show_count(apart[kind]) for kind in COSTS))
    table.add_row("all together", "", *(show_count(together[kind]) for kind in COSTS), style="bold")
    saved = (f"{1 - together[kind] / apart[kind]:.0%}" if apart[kind] else "" for kind in COSTS)
    table.add_row("saved by sharing", "", *saved)
    table.add_section()
    heading = "samples unknown" if samples is None else f"x {samples:,} samples"
    table.add_row(heading, "", *(show_count(in_total[kind]) for kind in COSTS))
    out.print(table)


def print_proposal(out: Terminal, proposal: Proposal) -> None:
    """The attacks that a budget buys, as a job writes them, and why others are left out."""
    title = f"Attacks for {proposal.budget} forwards per image"
    table = plain_table(title, ("attack", "parameters", "best signal"), ("forwards", "lowest AUC"))
    for entry in proposal.entries:
        parameters = json.dumps(entry.parameters) if entry.parameters else "defaults"
        lowest = f"{entry.lowest_auc(proposal.reported_on):.3f}"
        table.add_row(entry.attack, parameters, entry.signal, str(entry.passes), lowest)
    out.print(table)
    out.say(
        f"Together {proposal.passes} forwards, where a backward counts for two. The AUC is the lowest of "
        f"{', '.join(proposal.reported_on)}, as raymia {proposal.version} measured it; on large models it is lower."
    )
    for attack, reason in proposal.left_out.items():
        out.say(f"Left out: {attack}: {reason}.")


def print_memory(out: Terminal, memory: Memory | str) -> None:
    """What a replica takes on a GPU by its parts and calls, and the GPU that has room for it; or why that is not known."""
    if isinstance(memory, str):
        out.say(memory)
        return
    table = plain_table("Memory of a replica on a GPU", ("part", "class"), ("parameters", "dtype", "GiB"))
    for part in memory.parts:
        size = f"{part.weights_gib:.2f}" if part.resident else f"({part.weights_gib:.2f})"
        table.add_row(part.part, part.kind, f"{part.parameters:,}", part.dtype, size)
    table.add_section()
    for call in memory.calls:
        table.add_row(call.what, "" if call.images == 1 else f"{call.images} in a call", "", "", f"{call.gib:.2f}")
    out.print(table)
    if memory.gpus > 1:
        out.say(f"Of each of the {memory.gpus} GPUs that the denoiser is spread over:")
    least, roomy = memory.smallest_gpu_gib, memory.roomy_gpu_gib
    if least is None:
        out.say(f"No GPU has room for it: {memory.least_gib:.0f} GiB with one image to a call.")
    elif least == roomy:
        out.say(f"The smallest GPU that it fits is one of {least} GB: {memory.gib:.1f} GiB.")
    else:
        more = f"; calls as above take {memory.gib:.1f} GiB" + ("" if roomy is None else f", one of {roomy} GB")
        out.say(f"The smallest GPU that it fits is one of {least} GB, with smaller calls: {memory.least_gib:.1f} GiB{more}.")
    if not all(part.resident for part in memory.parts):
        out.say("In brackets: not on the GPU but while texts are encoded.")


def print_texts(out: Terminal, memory: Memory | str, prompts: int, samples: int | None) -> None:
    """The room that encoded texts take in the run directory until the scan is finished.

    Args:
        out: where to print.
        memory: that was predicted.
        prompts: that the model is told for each image.
        samples: in all, where known.
    """
    if isinstance(memory, str):
        return
    each = memory.prompt_mib * prompts
    total = "" if samples is None else f", {each * samples / 1024:,.1f} GiB in all at most"
    told = "1 prompt" if prompts == 1 else f"{prompts} prompts"
    out.say(f"Encoded texts: {told} of {memory.prompt_mib:.2f} MiB for each image{total}.")


def print_grid(out: Terminal, factors: list[Factor], cells: list[Cell]) -> None:
    """The scans of a sweep and what varies within each."""
    for factor in factors:
        where = "within each scan" if factor.attack else "a scan each"
        values = "; ".join(map(value_text, factor.values))
        out.say(f"{factor.field}: {values} ({where})")
    table = plain_table(None, ("scan", "attacks"))
    for cell in cells:
        table.add_row(cell.job.run, ", ".join(cell.job.attacks))
    out.print(table)


def print_analysis(out: Terminal, analysis: FactorAnalysis) -> None:
    """AUC of each attack along each factor, the others at their first values."""
    for factor in analysis.factors:
        curves = along(analysis, factor.field)
        if not curves:
            continue
        table = Table(title=f"AUC by {factor.field}", box=box.SIMPLE, padding=(0, 1, 0, 0))
        table.add_column("attack")
        for value in factor.values:
            table.add_column(value_text(value))
        for attack, points in curves.items():
            aucs = {str(value): shown(row.auc) for value, row in points}
            table.add_row(attack, *(aucs.get(str(value), "-") for value in factor.values))
        out.print(table)


def cost_table(title: str) -> Table:
    """An empty table with a column per kind of evaluation."""
    table = Table(title=title, caption=COST_LEGEND, box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("attack", no_wrap=True)
    table.add_column("access", no_wrap=True)
    for heading in COSTS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def show_count(number: int | None) -> str:
    """With thousands marked; nothing for zero, a question mark where unknown."""
    return "?" if number is None else f"{number:,}" if number else ""


def print_status(out: Terminal, status: Status) -> None:
    """A run's state in a few lines."""
    done = f"{status.samples:,}" + (f" of {status.expected:,}" if status.expected is not None else "")
    out.say(f"{status.run}: {status.state}, attempt {status.attempts}")
    line = f"{done} samples in {status.units:,} units, {status.quarantined:,} quarantined"
    reasons = ", ".join(f"{reason} {count}" for reason, count in status.by_reason.items())
    out.say(line + (f" ({reasons})" if reasons else ""))
    if status.images_per_s is not None:
        eta = "" if status.eta_s is None else f", {duration(status.eta_s)} to go"
        out.say(f"{status.images_per_s:g} images/s{eta}")
    if status.stages:
        spent = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in status.stages.items())
        waited = f"; waited for {status.bottleneck}" if status.bottleneck else ""
        out.say(f"Seconds by stage, over all processes: {spent}{waited}")
    if status.last_sign_of_life and status.state != "finished":
        out.say(f"Last sign of life {status.last_sign_of_life}")


def print_checks(out: Terminal, checks: list[Check]) -> None:
    """What the doctor found, faults first, each with its remedy."""
    table = plain_table(None, ("", "check", "where", "found"))
    marks = {"fault": Text("fault", style="red"), "warning": Text("warning", style="yellow"), "ok": Text("ok")}
    for check in sorted(checks, key=lambda check: list(marks).index(check.state)):
        text = check.found + (f"\n-> {check.mend}" if check.mend else "")
        table.add_row(marks[check.state], check.name, check.node, text)
    out.print(table)
    faults = sum(check.state == "fault" for check in checks)
    out.say(f"{faults} faults" if faults else "Nothing keeps a scan from running.")
