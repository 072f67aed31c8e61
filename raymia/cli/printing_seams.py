"""What people read of model families and services on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from raymia.cli.console import Terminal, plain_table

if TYPE_CHECKING:  # these need torch, which printing does not
    from raymia.replica.families import Family
    from raymia.services.protocol import Service


def print_families(out: Terminal, families: Iterable[Family]) -> None:
    """Name, models, resolution, levels and what is refused of each family."""
    table = plain_table("Model families, in diffusers' pipeline layout", ("family", "models"), ("px",))
    for heading in ("levels", "refused"):
        table.add_column(heading, overflow="fold")
    for family in families:
        table.add_row(family.name, family.title, str(family.resolution_px), family.levels, family.refused)
    out.print(table)


def print_services(out: Terminal, services: Iterable[type[Service]]) -> None:
    """Name, what it is, and what can be asked of each service."""
    table = plain_table("Services", ("service", "what it is", "can be asked for"))
    for service in services:
        table.add_row(service.name, service.title, ", ".join(sorted(service.capabilities)))
    out.print(table)


def print_file(out: Terminal, facts: Mapping[str, Any]) -> None:
    """What a single file is, a line for each thing that is known of it."""
    for name, value in facts.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else "not told" if value is None else str(value)
        out.say(f"{name.replace('_', ' ')}: {shown or 'nothing'}")
