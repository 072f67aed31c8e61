"""Every part of a stage is done, once, however many there are."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from raymia.engine.stage import WAITING_PARTS, run_parts
from raymia.errors import RaymiaError

CONSOLE = Console(file=io.StringIO())


def double(number: int) -> int:
    return 2 * number


def refuse(number: int) -> int:
    raise RaymiaError(f"part {number} cannot be done")


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("count", [0, 1, 4 + WAITING_PARTS, 5 + WAITING_PARTS, 40])
def test_every_part_is_done_whether_or_not_all_can_wait_at_once(count: int) -> None:
    results = run_parts("double", range(count), double, lambda _: 1, CONSOLE)
    assert sorted(results) == [2 * number for number in range(count)]


@pytest.mark.usefixtures("local_ray")
def test_a_part_that_cannot_be_done_ends_the_stage() -> None:
    with pytest.raises(RaymiaError, match="part 7 cannot be done"):
        run_parts("refuse", [7], refuse, lambda _: 1, CONSOLE)
