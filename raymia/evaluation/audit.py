"""Suspect set against control set: from run directories to a statement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel

from raymia.data.clusters import join_clusters
from raymia.errors import ConfigError
from raymia.evaluation.blind import blind_scores
from raymia.evaluation.cdi import cdi_signals
from raymia.evaluation.crossfit import cluster_groups
from raymia.evaluation.intervals import Interval, delong
from raymia.evaluation.set_level import SIGNIFICANT, SetTest, set_test
from raymia.evaluation.signals import describe_signals, scored_rows, signals_of
from raymia.run.ledger import Ledger
from raymia.run.record import Access, ModelRecord, SignalRecord

CAVEAT = (
    "This holds only if the control samples come from the same source as the suspect ones and were certainly not trained on; "
    "it says something about the set, not about any one sample."
)


Features = Literal["all", "cdi"]


class Audit(BaseModel):
    """The test with what it must be read with."""

    suspect: str
    control: str
    access: str
    features: Features = "all"
    """``all`` signals of attacks, or ``cdi``: the set of arXiv 2411.12858."""
    test: SetTest
    blind: dict[str, Interval]
    """AUC of classifiers that never see the model, suspect against control; .5 where the sets are alike."""
    statement: str


@dataclass(frozen=True)
class _Samples:
    """One of the two sets.

    Attributes:
        model: what identifies the attacked model; none where nothing says so.
        run: the run directory; none of a table.
    """

    name: str
    run: str | None
    table: pd.DataFrame
    model: ModelRecord | None
    signals: list[SignalRecord]


def audit(
    suspect: pd.DataFrame | str,
    control: pd.DataFrame | str,
    access: Access = Access.WHITE,
    seed: int = 0,
    features: Features = "all",
) -> Audit:
    """Test whether the suspect samples score above the control.

    Args:
        suspect, control: run directories, ``RUN#SPLIT`` for one split of a run; or tables of `raymia.score`.
        access: signals of attacks that need more are left out.
        seed: of the splits into samples to fit on and samples to test.
        features: ``all`` signals of attacks; or those that are ``cdi``'s, of which the mean is of all.

    Raises:
        ConfigError: no such run or split, the sets were scored with different models or attacks, or lack features.
        RaymiaError: a set is too small.
    """
    ours, theirs = _load(suspect, "suspect table"), _load(control, "control table")
    for field in ("model", "signals"):
        if getattr(ours, field) != getattr(theirs, field):
            raise ConfigError(f"{ours.name} and {theirs.name} differ in `{field}`; score both with the same model and attacks")
    names = cdi_signals(ours.signals, access, ours.name) if features == "cdi" else signals_of(access, ours.signals)
    if not names:
        raise ConfigError(f"{ours.name}: no signal of an attack that {access} access allows; scan with such attacks")
    described = {signal.name: signal for signal in ours.signals}
    test = set_test(
        ours.table[names].to_numpy(float),
        theirs.table[names].to_numpy(float),
        None if features == "cdi" else np.array([described[name].primary for name in names]),
        (cluster_groups(ours.table), cluster_groups(theirs.table)),
        seed,
    )
    both = pd.concat([ours.table, theirs.table], ignore_index=True)
    suspected = np.arange(len(both)) < len(ours.table)
    blind = {name: delong(scores, suspected) for name, scores in blind_scores(both, suspected, seed).items()}
    return Audit(
        suspect=ours.name,
        control=theirs.name,
        access=str(access),
        features=features,
        test=test,
        blind=blind,
        statement=_statement(test, blind, _in_both(ours, theirs)),
    )


def _load(source: pd.DataFrame | str, name: str) -> _Samples:
    if isinstance(source, pd.DataFrame):
        return _Samples(name, None, scored_rows(source), None, describe_signals(source))
    place, _, split = source.partition("#")
    ledger = Ledger(place)
    run = ledger.require_scan()
    table = join_clusters(ledger.frame(), ledger.clusters())
    if split:
        known = sorted(table["split"].unique())
        if split not in known:
            raise ConfigError(f"{source}: no split {split!r} with scored samples; it has {', '.join(known)}")
        table = table[table["split"] == split]
    return _Samples(source, place, table, run.model, run.signals)


def _in_both(suspect: _Samples, control: _Samples) -> int:
    """Clusters of near-duplicates that have samples in both sets; of two runs nothing is known, as each names its own."""
    if suspect.run != control.run:
        return 0
    named = [set(each.table["cluster"].dropna()) if "cluster" in each.table else set() for each in (suspect, control)]
    return len(named[0] & named[1])


def alarming(blind: dict[str, Interval]) -> list[str]:
    """Baselines that tell the sets apart without seeing the model."""
    return [name for name, auc in blind.items() if auc.low > 0.5]


def _statement(test: SetTest, blind: dict[str, Interval], in_both: int) -> str:
    alarmed = alarming(blind)
    if test.p >= SIGNIFICANT:
        statement = f"No evidence that the suspect set was trained on (p = {test.p:.2g}). That is no evidence that it was not."
    elif alarmed:
        statement = (
            f"The suspect set scores higher (p = {test.p:.2g}), but classifiers that never see the model tell the sets apart "
            f"too ({', '.join(alarmed)}): the difference may be one of the images alone, and is no evidence of training."
        )
    else:
        statement = (
            "The suspect set scores higher than the control: an indication that it was trained on, of a kind that comes up by "
            f"chance with p = {test.p:.2g}."
        )
    if test.false_positives is not None and test.false_positives > 2 * SIGNIFICANT:
        statement += (
            f" Beware: control against control is significant in {test.false_positives:.0%} of draws, where at most 5 % is due."
        )
    if in_both:
        statement += (
            f" Beware: {in_both} clusters of works that belong together stand in both sets; a control that has twins among the "
            "suspect works was not certainly unseen."
        )
    return f"{statement} {CAVEAT}"
