"""What people read of model families and services on the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:  # these need torch, which printing does not
    from raymia.replica.families import Family
    from raymia.services.protocol import Service


def print_families(out: Console, families: Iterable[Family]) -> None:
    """Name, models, resolution and parts of each family."""
    table = Table(title="Model families, in diffusers' pipeline layout", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("family", "models"):
        table.add_column(heading, overflow="fold")
    table.add_column("px", justify="right")
    table.add_column("parts with weights", overflow="fold")
    for family in families:
        table.add_row(escape(family.name), escape(family.title), str(family.resolution_px), escape(", ".join(family.weights)))
    out.print(table)


def print_services(out: Console, services: Iterable[type[Service]]) -> None:
    """Name, what it is, and what can be asked of each service."""
    table = Table(title="Services", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("service", "what it is", "can be asked for"):
        table.add_column(heading, overflow="fold")
    for service in services:
        table.add_row(escape(service.name), escape(service.title), escape(", ".join(sorted(service.capabilities))))
    out.print(table)
