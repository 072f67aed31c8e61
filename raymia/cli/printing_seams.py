"""What people read of model families and services on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raymia.cli.console import Terminal, plain_table

if TYPE_CHECKING:  # these need torch, which printing does not
    from raymia.replica.families import Family
    from raymia.run.record import ServiceRecord
    from raymia.scan.service import Bill
    from raymia.services.protocol import Service


def print_families(out: Terminal, families: Iterable[Family]) -> None:
    """Name, models, resolution, levels and what is refused of each family."""
    table = plain_table("Model families, in diffusers' pipeline layout", ("family", "models"), ("px",))
    for heading in ("levels", "refused"):
        table.add_column(heading, overflow="fold")
    for family in families:
        table.add_row(family.name, family.title, str(family.resolution_px), family.levels, family.refused)
    out.print(table)


def print_services(out: Terminal, services: Iterable[type[Service]], allowed: Mapping[str, Sequence[str]]) -> None:
    """Name, what it is, what can be asked of each service, and which attacks are possible there."""
    table = plain_table("Services", ("service",))
    for heading in ("what it is", "can be asked for, at most", "attacks"):
        table.add_column(heading, overflow="fold")
    for service in services:
        asked = ", ".join(sorted(service.capabilities))
        table.add_row(service.name, service.title, asked, ", ".join(allowed[service.name]))
    out.print(table)
    for service in services:
        if service.rewrites_prompts:
            out.say(f"{service.name} changes prompts: {service.rewrites_prompts}.")


def print_bill(out: Terminal, bill: Bill) -> None:
    """What a scan asks of a service and what that costs."""
    first = f" and {bill.first_images} first questions" if bill.first_images else ""
    total = "samples unknown" if bill.images is None else f"{bill.images:,} in all"
    out.say(f"Images asked of the service: {bill.images_per_sample} for each sample{first}; {total}.")
    if bill.price is not None:
        out.say(f"Price of the images, by the job: {bill.price:,.2f}{'' if bill.currency is None else f' {bill.currency}'}.")
    elif bill.images is not None:
        out.say("Price of the images: unknown; set replica.price_per_image, and replica.budget for a limit.")


def print_asked(out: Terminal, record: ServiceRecord | None) -> None:
    """What a scan asked of a service and what that cost; nothing where nothing went over a network."""
    if record is None:
        return
    calls = record.calls
    refusals = f" and {record.refusals:,} refusals" if record.refusals else ""
    out.say(
        f"asked: {record.images:,} images{refusals} kept; {calls.made:,} calls, of which {calls.failed:,} failed and "
        f"{calls.busy:,} were told to come again"
    )
    if record.spent is not None:
        out.say(f"spent: {record.spent:,.2f} {record.currency}, at {record.price_per_image:g} an image")


def print_file(out: Terminal, facts: Mapping[str, Any]) -> None:
    """What a single file is, a line for each thing that is known of it."""
    for name, value in facts.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else "not told" if value is None else str(value)
        out.say(f"{name.replace('_', ' ')}: {shown or 'nothing'}")
