"""One edge that is fuzzed."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from raymia.errors import RaymiaError


class Target(ABC):
    """One edge.

    Attributes:
        tried: how many inputs there were.
        refusals: how often something was refused in words.
    """

    name: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        """Make what inputs are made from, below an empty folder."""
        self.folder = folder
        self.tried = 0
        self.refusals = 0

    @abstractmethod
    def once(self, rng: random.Random) -> None:
        """Try one input. Whatever is raised, but for what the edge may raise, is a fault that was found."""

    def _refusing(self, act: Callable[[], object]) -> bool:
        """Do something that may be refused by an error of ours in one line; whether it was not."""
        refusal = _refusal(act)
        if refusal is None:
            return True
        assert "\n" not in refusal, f"more than a line: {refusal}"
        assert refusal.isprintable(), f"control characters: {refusal!r}"
        self.refusals += 1
        return False


def _refusal(act: Callable[[], object]) -> str | None:
    try:
        act()
    except RaymiaError as error:
        return str(error)
    return None
