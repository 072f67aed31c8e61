"""What `raymia extract` prints."""

from __future__ import annotations

from raymia.cli.console import Terminal, plain_table
from raymia.evaluation.extraction import Extraction

MOST = 10
"""Works that are printed."""
CAPTION = 40
"""Characters of a caption that are printed."""


def print_extraction(out: Terminal, found: Extraction) -> None:
    """The works whose captions brought forth the closest images, and what that rests on."""
    captions = found.captions
    out.say(
        f"{captions.read:,} read: {captions.chosen:,} chosen, {captions.drawn:,} drawn for the floor, "
        f"{captions.passed_over:,} passed over, {captions.without_caption:,} without caption, "
        f"{sum(captions.unreadable.values()):,} unreadable."
    )
    for reason, number in captions.unreadable.items():
        out.say(f"Unreadable, {reason}: {number:,}")
    shown = found.works[:MOST]
    title = f"The {len(shown)} closest of {len(found.works):,}, by {found.detector}"
    table = plain_table(title, ("work", "caption", ""), ("similarity", "floor", "p", "same"))
    for work in shown:
        caption = work.caption if len(work.caption) <= CAPTION else f"{work.caption[: CAPTION - 2]}.."
        came_back = "came back" if work.extracted else "drawn" if work.role == "drawn" else ""
        floor, p = ("-", "-") if work.floor is None or work.p is None else (f"{work.floor:.3f}", f"{work.p:.2g}")
        numbers = (f"{work.similarity:.3f}", floor, p, f"{work.cluster} of {found.draws}")
        table.add_row(work.key, caption, came_back, *numbers)
    out.print(table)
    alike = "near-identical" if found.thresholds else f"alike to {found.near:g} or more, which is no sign of a copy"
    out.say(f"floor: closest image of another caption to this work; same: images of the caption that are {alike}.")
    for statement in found.statements:
        out.say(statement)
