"""What people read of model families and services on the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from raymia.cli.console import plain_table

if TYPE_CHECKING:  # these need torch, which printing does not
    from raymia.replica.families import Family
    from raymia.services.protocol import Service


def print_families(out: Console, families: Iterable[Family]) -> None:
    """Name, models, resolution and parts of each family."""
    table = plain_table("Model families, in diffusers' pipeline layout", ("family", "models"), ("px",))
    table.add_column("parts with weights", overflow="fold")
    for family in families:
        table.add_row(escape(family.name), escape(family.title), str(family.resolution_px), escape(", ".join(family.weights)))
    out.print(table)


def print_services(out: Console, services: Iterable[type[Service]]) -> None:
    """Name, what it is, and what can be asked of each service."""
    table = plain_table("Services", ("service", "what it is", "can be asked for"))
    for service in services:
        table.add_row(escape(service.name), escape(service.title), escape(", ".join(sorted(service.capabilities))))
    out.print(table)
