"""What `raymia audit` and `raymia verify` print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raymia.cli.console import Terminal, plain_table
from raymia.cli.printing import print_audit
from raymia.cli.printing_extraction import print_extraction
from raymia.data.findings import ClaimsFinding, LookupFinding
from raymia.evaluation.evidence import LISTED_FILE, WORKS_SPLIT, Evidence, Said
from raymia.evaluation.intervals import Interval, shown

if TYPE_CHECKING:  # these need torch and Ray
    from raymia.evidence.bundle import Bundle
    from raymia.evidence.rescoring import Agreement
    from raymia.evidence.sets import Sets
    from raymia.evidence.timestamp import Stamp

HIGHEST = 5
"""Works, and rows, that are printed."""


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


def print_said(out: Terminal, said: Said) -> None:
    """What lists name, and what works and provider say, before a score is computed."""
    if said.lookup is not None:
        print_listed(out, said.lookup)
    for name, claims in (("works", said.works), ("control", said.control)):
        if claims is not None:
            _print_dates(out, name, claims)
    for words in said.works.of_provider if said.works is not None else ():
        out.say(f"Contradiction of the provider: {words}.")


def print_listed(out: Terminal, found: LookupFinding) -> None:
    """What public lists name of works and control."""
    out.say(f"{found.found_for_sure:,} of {found.works:,} works stand in the lists by address or digest ({found.rows:,} rows).")
    if found.found > found.found_for_sure:
        out.say(f"{found.found - found.found_for_sure:,} more are like a row of theirs: look at these rows.")
    for hit in found.hits[:HIGHEST]:
        out.say(f"  {hit.work}: {hit.way}, {hit.table} row {hit.row:,}{'' if hit.url is None else f', {hit.url}'}", whole=True)
    if found.hits_in_all > HIGHEST:
        out.say(f"  .. of {found.hits_in_all:,} matches; see {LISTED_FILE.format(WORKS_SPLIT)}")
    if found.controls_for_sure:
        out.say(
            f"{found.controls_for_sure:,} of {found.controls:,} control images stand in the lists by address or digest, "
            "too: they are not certainly unseen. Leave them out."
        )


def _print_dates(out: Terminal, name: str, claims: ClaimsFinding) -> None:
    reserved = claims.reserved.get("yes", 0)
    if claims.dated or reserved:
        dates = f"{claims.dated:,} of {claims.works:,} {name} have a date of publication"
        between = f", {claims.earliest} to {claims.latest}" if claims.dated else ""
        out.say(f"{dates}{between}; rights are reserved for {reserved:,}.")
    if claims.sides:
        late, early = claims.sides.get("non_member", 0), claims.sides.get("suspect", 0)
        out.say(
            f"Of the {name}, {late:,} were first published after {claims.cut_off}, to which the provider says the training "
            f"data go, and {early:,} before."
        )
    for kind, count in claims.contradictions.items():
        out.say(f"Contradiction among the {name}: {kind}, {count:,}")
    for one in claims.contradicted[:HIGHEST]:
        out.say(f"  {one.work}: {one.says}")


def print_stamp(out: Terminal, stamp: Stamp) -> None:
    """When an authority saw the registration, and how far that was checked."""
    out.say(f"Time stamp of the registration: {stamp.told}.")


def print_evidence(out: Terminal, evidence: Evidence) -> None:
    """The finding, the test, and the works that stand highest."""
    print_audit(out, evidence.audit)
    for name, auc in evidence.controls.items():
        out.say(f"Control score, works against control, {name}: AUC {shown(auc)}")
    if evidence.generated is not None:
        out.say(f"Images that a model made against control, mean of primary signals: AUC {shown(evidence.generated)}")
    if evidence.context.extraction is not None:
        print_extraction(out, evidence.context.extraction)
    for one in (*evidence.context.lost, *evidence.quarantined):
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
