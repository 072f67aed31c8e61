"""What all commands share: where they print, their common options and their exit codes."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

out = Console()
err = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


class Exit(IntEnum):
    """Exit codes."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    OVER_QUARANTINED = 3


def plain_table(title: str | None, texts: Sequence[str], numbers: Sequence[str] = ()) -> Table:
    """A table without rows or rules: columns of text, whose words are never cut, then columns of numbers."""
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for heading in texts:
        table.add_column(heading, overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table
