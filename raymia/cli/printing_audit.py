"""What `raymia audit` and `raymia verify` print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raymia.cli.console import Terminal, plain_table
from raymia.cli.printing import print_audit
from raymia.evaluation.evidence import Evidence
from raymia.evaluation.intervals import Interval, shown

if TYPE_CHECKING:  # these need torch and Ray
    from raymia.evidence.bundle import Bundle
    from raymia.evidence.rescoring import Agreement
    from raymia.evidence.sets import Sets

HIGHEST = 5
"""Works that are printed."""


def print_sets(out: Terminal, sets: Sets, blind: dict[str, Interval]) -> None:
    """How many images each set has, what was lost, and what tells the sets apart without a model."""
    counts = ", ".join(f"{split} {number:,}" for split, number in sets.samples.items())
    out.say(f"{sets.manifest}: {counts}", whole=True)
    for one in sets.lost:
        out.say(f"{one.images} of {one.split} could not be packed: {one.reason}")
    if sets.twins:
        out.say(f"{sets.twins} control images left out: a work shows the same.")
    for split, number in sets.together.items():
        if number:
            out.say(f"{number} of {split} show the same as others of them, and count once together.")
    for name, auc in blind.items():
        alarm = ": works and control differ in what no model is needed for; a finding will say little" if auc.low > 0.5 else ""
        out.say(f"Blind, works against control, {name}: AUC {shown(auc)}{alarm}")


def print_evidence(out: Terminal, evidence: Evidence) -> None:
    """The finding, the test, and the works that stand highest."""
    print_audit(out, evidence.audit)
    for name, auc in evidence.controls.items():
        out.say(f"Control score, works against control, {name}: AUC {shown(auc)}")
    if evidence.generated is not None:
        out.say(f"Images that a model made against control, mean of primary signals: AUC {shown(evidence.generated)}")
    for one in (*evidence.lost, *evidence.quarantined):
        out.say(f"Not in the test: {one.images} of {one.split}, {one.reason}")
    table = plain_table(
        f"The {HIGHEST} works that stand highest, of {len(evidence.works)}", ("work",), ("standing", "control as high")
    )
    for work in evidence.works[:HIGHEST]:
        table.add_row(work.key, f"{work.standing:+.2f}", f"{work.as_high:.1%}")
    out.print(table)


def print_verified(out: Terminal, bundle: Bundle, problems: Sequence[str], agreement: Agreement | None) -> None:
    """Whether the files and the scores hold."""
    for problem in problems:
        out.say(problem, whole=True)
    if problems:
        out.say(f"{len(problems)} of {len(bundle.files)} files are not as they were sealed on {bundle.made}.")
    else:
        out.say(f"All {len(bundle.files)} files are as they were sealed on {bundle.made}.")
    out.say(f"The whole folder, in a hash: {bundle.digest()}", whole=True)
    if agreement is None:
        return
    word = "agree" if agreement.holds else "differ"
    out.say(
        f"{agreement.samples} of {agreement.of} samples: scores {word}; the largest difference is {agreement.largest:.2g} "
        f"standard deviations ({agreement.signal} of {agreement.key}), and up to {agreement.tolerance:g} are allowed."
    )
    if agreement.p is not None:
        out.say(f"p of the test: {agreement.p[0]:.3g} here and {agreement.p[1]:.3g} there.")
