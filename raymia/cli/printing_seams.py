"""What people read of model families and services on the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from raymia.cli.console import Terminal, plain_table

if TYPE_CHECKING:  # these need torch, which printing does not
    from raymia.replica.families import Family
    from raymia.services.protocol import Service


def print_families(out: Terminal, families: Iterable[Family]) -> None:
    """Name, models, resolution and parts of each family."""
    table = plain_table("Model families, in diffusers' pipeline layout", ("family", "models"), ("px",))
    for heading in ("levels", "parts with weights", "refused"):
        table.add_column(heading, overflow="fold")
    for family in families:
        weights = ", ".join(part for part, path in family.parts.items() if not path.endswith("Tokenizer"))
        table.add_row(family.name, family.title, str(family.resolution_px), family.levels, weights, family.refused)
    out.print(table)


def print_services(out: Terminal, services: Iterable[type[Service]]) -> None:
    """Name, what it is, and what can be asked of each service."""
    table = plain_table("Services", ("service", "what it is", "can be asked for"))
    for service in services:
        table.add_row(service.name, service.title, ", ".join(sorted(service.capabilities)))
    out.print(table)
