"""What `raymia canary` prints."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymia.cli.console import Terminal, plain_table

if TYPE_CHECKING:  # these need torch and Ray
    from raymia.evidence.canary import Drawn, Side
    from raymia.evidence.canary_scan import CanaryResult

NAMED = 10
"""Files that are named in a list; the rest is counted."""


def summary(drawn: Drawn, file: Path) -> dict[str, Any]:
    """What a plan holds, without the draw itself."""
    plan = drawn.plan
    return {
        "plan": str(file),
        "commitment": plan.commitment(),
        "planned": plan.planned,
        "works": len(plan.works),
        "publish": len(plan.side("publish")),
        "hold_back": len(plan.side("hold back")),
        "units": len(plan.assignment),
        "publish_units": plan.published_units,
        "joined": drawn.joined,
        "left_out": plan.left_out,
        "test": plan.test.model_dump(mode="json"),
    }


def print_plan(out: Terminal, drawn: Drawn, file: Path, lists: Mapping[Side, Path]) -> None:
    """The numbers of a plan, its hash, and what to do next."""
    plan, units = drawn.plan, len(drawn.plan.assignment)
    publish, hold = (len(plan.side(side)) for side in ("publish", "hold back"))
    kind = "files" if plan.unit == "file" else "folders and single files"
    out.say(f"{file}: {len(plan.works)} works in {units} units ({kind}); nobody chose which, a lot was drawn.", whole=True)
    if drawn.joined:
        fewer = "1 unit" if drawn.joined == 1 else f"{drawn.joined} units"
        out.say(f"{fewer} fewer, as works in them show the same as others; they stay together.")
    for name, reason, detail in drawn.lost[:NAMED]:
        out.say(f"Left out: {name}: {reason} ({detail})", whole=True)
    if len(drawn.lost) > NAMED:
        out.say(f"Left out: {len(drawn.lost) - NAMED} more that cannot be read as images")
    out.say(f"Publish {publish} works in {plan.published_units} units:  {lists['publish']}", whole=True)
    out.say(f"Keep back {hold} works in {units - plan.published_units} units:  {lists['hold back']}", whole=True)
    out.say("")
    out.say(f"Your commitment:  {plan.commitment()}", whole=True)
    out.say("")
    out.say("What to do now:")
    out.say("1. Publish or time-stamp the commitment today. It tells nobody the draw, and shows later that you made it today.")
    out.say("2. Publish the works of the first list, as you would have done, and none of the second.")
    out.say("3. Keep the others to yourself for good: upload them nowhere, not to a private cloud album, not to a model.")
    out.say(f"4. Keep {file} and the very files of both halves safe, and show the plan to nobody before the test.", whole=True)
    if not (plan.test.attacks or plan.test.signals):
        out.say("No attack was declared: all main signals of whatever is run will count, the highest of them.")
    for name, fixed in plan.test.parameters.items():
        out.say(f"Fixed of {name}: {_values(fixed)}")
    if plan.test.options:
        out.say(f"Fixed: {_values(plan.test.options)}")
    out.say(f"Later:  raymia canary test {file} --works WORKS --model MODEL --commitment HASH --out FOLDER", whole=True)


def _values(fixed: Mapping[str, Any]) -> str:
    return ", ".join(f"{field} {json.dumps(value)}" for field, value in fixed.items()) or "nothing"


def print_result(out: Terminal, result: CanaryResult) -> None:
    """The signals, p, what it means and what it does not."""
    test = result.test
    table = plain_table(
        f"{test.published} published units against {test.held_back} kept back",
        ("signal",),
        ("difference", "AUC", "p alone", "p of all"),
    )
    for signal in sorted(test.signals, key=lambda one: one.p):
        table.add_row(signal.name, f"{signal.effect:+.2f}", f"{signal.auc:.3f}", f"{signal.p:.2g}", f"{signal.p_adjusted:.2g}")
    out.print(table)
    _print_works(out, result)
    how = "every draw that could have come out" if test.enumerated else "random draws of the same kind"
    out.say(
        f"p = {test.p:.3g}, exact: held against {how} ({test.draws:,}). Declared: significant up to {result.declared.alpha:g}."
    )
    out.say(verdict(result))
    if not (result.declared.attacks or result.declared.signals):
        out.say("The plan declared no attack: whoever tried several sets of attacks, and shows one, must count them all.")
    held = "as given" if result.commitment_held else "--commitment holds it against what you published"
    out.say(f"The plan's hash, of {result.planned}: {result.commitment} ({held})", whole=True)


def _print_works(out: Terminal, result: CanaryResult) -> None:
    for reason, number in result.unscored.items():
        out.say(f"Left out: {number} works, {reason}; a file that cannot be scored could not be on either side.")
    if result.missing:
        out.say(
            f"Missing: {len(result.missing)} works, such as {result.missing[0]}. They count at their worst: p holds whatever "
            "they would have scored, within the range of the others."
        )
    if result.others:
        out.say(f"{result.others} samples of the run are not in the plan, and were left out.")
    if result.undeclared:
        out.say(f"Not counted, as the plan declares what is: {', '.join(result.undeclared)}.")
    if not result.bytes_checked:
        out.say("The run's shards are not within reach: works were known by their names alone, and may have been changed.")


def verdict(result: CanaryResult) -> str:
    """What the test shows and what it does not, in words for everybody."""
    if not result.significant:
        return (
            f"No sign that {result.subject} knows the published works: {chances(result.test.p)} such tests come out so by "
            "chance alone. That does not show that it was not trained on them."
        )
    return (
        f"{result.subject} knows the published works better than those kept back. At most {chances(result.test.p)} such tests "
        "would come out so by chance if the model had learnt nothing from the published half. The published works, as a set, "
        "were in its training data, or influenced it in another way, such as through copies or a model that it was made from. "
        "Nothing but the lot set the halves apart, so they got in by being published, as long as those kept back "
        "never left your hands. This says nothing of any single work."
    )


def chances(p: float) -> str:
    """A probability as so many in so many, rounded up to two digits."""
    of = 100
    while p * of < 10 and of < 10**12:
        of *= 10
    number = math.ceil(round(p * of, 6))
    while number % 10 == 0 and of > 1:
        number, of = number // 10, of // 10
    return f"{number:,} in {of:,}"
