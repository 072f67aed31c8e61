"""What a sweep's directory says of itself: its factors, and the scan that each combination stands in."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

SWEEP_FILE = "sweep.json"


class Factor(BaseModel):
    """A field of the job and the values that it takes."""

    field: str
    values: list[Any]

    @property
    def attack(self) -> str | None:
        """The attack whose parameter it is; none for a field that needs scans of its own."""
        parts = self.field.split(".")
        return parts[1] if parts[0] == "attacks" and len(parts) > 2 else None


class Variant(BaseModel):
    """What a variant of an attack stands for."""

    attack: str
    """The attack's key in the job."""
    point: dict[str, Any]
    """Values of the factors of its parameters."""


class CellRecord(BaseModel):
    """One scan of a sweep, as it is kept."""

    point: dict[str, Any]
    variants: dict[str, Variant]
    run: str
    """Starts at the sweep's directory."""


class SweepRecord(BaseModel):
    """Contents of sweep.json."""

    factors: list[Factor]
    cells: list[CellRecord]
