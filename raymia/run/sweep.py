"""Contents of sweep.json: a sweep's factors, and the scan that each combination of their values is part of."""

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
    """An attack at one combination of the values of its factors."""

    attack: str
    """The attack's key in the job."""
    point: dict[str, Any]
    """Values of the factors that are parameters of the attack, by field."""


class CellRecord(BaseModel):
    """One scan of a sweep."""

    point: dict[str, Any]
    """Values of the factors that need scans of their own, by field."""
    variants: dict[str, Variant]
    """Variants of attacks that the scan runs, by name."""
    run: str
    """Run directory of the scan, relative to the sweep's directory."""


class SweepRecord(BaseModel):
    """Contents of sweep.json."""

    factors: list[Factor]
    cells: list[CellRecord]
