"""Every edge holds against inputs that are made up and damaged by a seed; `make fuzz` goes on for an hour."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.__main__ import fuzz
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

SECONDS = 60.0 / len(TARGETS)


@pytest.mark.parametrize("kind", TARGETS, ids=lambda kind: kind.name)
def test_no_input_ends_anything_and_none_is_lost(kind: type[Target], tmp_path: Path) -> None:
    target = kind(tmp_path)
    faults = fuzz([target], "tests", SECONDS)
    assert not faults, f"{len(faults)} of {target.tried}; the first: {faults[0]}"
    # All that is text is a caption; of everything else some inputs must have been refused, or little was damaged.
    assert target.refusals > 0 or kind.name == "captions"
