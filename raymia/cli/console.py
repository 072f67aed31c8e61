"""What all commands share: where they print, their common options and their exit codes."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import typer
from rich.console import Console

out = Console()
err = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


class Exit(IntEnum):
    """Exit codes."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    OVER_QUARANTINED = 3
