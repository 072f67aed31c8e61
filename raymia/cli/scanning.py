"""What a scan will cost, printed before it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from raymia.cli.console import Exit, Terminal, err
from raymia.errors import ConfigError

if TYPE_CHECKING:  # it needs torch
    from raymia.run.record import Counts
    from raymia.scan.budget import Proposal
    from raymia.scan.plan import ScanPlan


def costs_of(plan: ScanPlan) -> dict[str, Any]:
    """What the scan of a plan costs, by attack and together, JSON-like but for `service` and `memory`."""
    from raymia.run.record import Evaluations
    from raymia.scan.asked import images_asked
    from raymia.scan.calibration import calibrates, with_reference
    from raymia.scan.cost import SOME_CAPTION, count, prompts_of
    from raymia.scan.service import bill_of

    job = plan.job
    both = job.reference is not None
    if job.hosted is None:
        alone = {
            name: dict(with_reference(attack.cost()) if both and calibrates(attack) else attack.cost())
            for name, attack in job.attacks.items()
        }
        together = dict(count(job.attacks.values(), plan.schedule, both))
    else:
        # What a service computes to make an image is its own affair.
        asked = {name: images_asked({name: attack}, job.hosted) for name, attack in job.attacks.items()}
        alone = {name: dict(Evaluations(queries=images)) for name, images in asked.items()}
        together = dict(Evaluations(queries=images_asked(job.attacks, job.hosted)))
    samples = plan.expected
    return {
        "per_image": alone,
        "apart": {kind: sum(cost[kind] for cost in alone.values()) for kind in Evaluations.model_fields},
        "together": together,
        "samples": samples,
        "in_total": {kind: None if samples is None else number * samples for kind, number in together.items()},
        "service": None if job.hosted is None else bill_of(job, samples),
        "memory": _memory(plan),
        "prompts": 0 if job.hosted is not None else len(prompts_of(job.attacks.values(), plan.schedule, [SOME_CAPTION])),
    }


def print_costs(out: Terminal, plan: ScanPlan) -> None:
    """Print what the scan of a plan costs."""
    from raymia.cli.printing import print_cost, print_memory, print_texts
    from raymia.cli.printing_seams import print_bill

    costs, job = costs_of(plan), plan.job
    alone, apart, together = costs["per_image"], costs["apart"], costs["together"]
    print_cost(out, job.attacks, alone, apart, together, costs["samples"], costs["in_total"])
    if costs["service"] is not None:
        print_bill(out, costs["service"])
    if costs["memory"] is not None:
        print_memory(out, costs["memory"])
        if job.hosted is None and job.model.text == "stage":
            print_texts(out, costs["memory"], costs["prompts"], costs["samples"])
    if costs["samples"] is None:
        unknown = ", ".join(split.name for split in plan.manifest.splits if split.samples is None)
        out.say(f"The manifest announces no number of samples for {unknown}; `raymia data index` counts them.")


def print_chosen(out: Terminal, plan: ScanPlan, proposal: Proposal | None) -> None:
    """Print how a budget chose the attacks of a plan, where one did, and what the scan costs."""
    from raymia.cli.printing import print_proposal

    if proposal is not None:
        print_proposal(out, proposal)
    print_costs(out, plan)


def end(counts: Counts, most: float, lost: str) -> None:
    """End a command whose scan lost more than the job allows.

    Args:
        counts: of the scan.
        most: share that may be lost.
        lost: what became of them, in words.

    Raises:
        Exit: with the code for that.
    """
    if counts.quarantined_fraction > most:
        share = f"{counts.quarantined_fraction:.1%} of the {lost}"
        err.say(f"{share}, more than max_quarantined_fraction {most:.1%}; the reasons stand above")
        raise typer.Exit(Exit.OVER_QUARANTINED)


def _memory(plan: Any) -> Any:
    """What a replica takes on a GPU, or why that cannot be told; none where it computes on a CPU."""
    from raymia.replica.memory import predicted_memory
    from raymia.scan.cost import backward_passes

    job = plan.job
    if plan.folder is None or job.pool.device == "cpu" or job.pool.gpus_per_replica == 0:
        return None
    dtype = "bfloat16" if job.model.dtype == "auto" else job.model.dtype
    precise = any(attack.precise for attack in job.attacks.values())
    options = job.model.options(dtype, "cuda", precise, job.pool.gpus)
    try:
        backward = backward_passes(job.attacks, job.pool.batch_size)
        return predicted_memory(plan.folder, options, job.pool.batch_size, backward)
    except ConfigError as error:
        return str(error)
