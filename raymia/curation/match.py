"""Members and non-members made alike: in captions, embeddings and image statistics, by dropping from both sides.

Classifiers that never see the attacked model say of each sample how much it looks like a member (its propensity); then members
and non-members of equal propensity are paired, and those without a partner are left out. Rosenbaum and Rubin, 1983; a caliper
on the logit after Austin, 2011. This is repeated, with classifiers fitted to what is left, until they find nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel
from rich.console import Console

from raymia.curation.derive import derive_from, output_folder, write_clusters, write_frame
from raymia.curation.embed import Features, load_features
from raymia.data.clusters import components
from raymia.data.manifest import Manifest
from raymia.data.selection import IDENTITY, fold
from raymia.errors import ConfigError
from raymia.evaluation.blind import blind_scores
from raymia.evaluation.crossfit import Groups, can_fold, cluster_groups, linear_model, out_of_fold
from raymia.evaluation.embeddings import embeddings
from raymia.evaluation.frechet import FrechetShift, frechet_shift
from raymia.evaluation.intervals import Interval, delong
from raymia.evaluation.roc import Floats
from raymia.run.columns import TEXT_EMBEDDING
from raymia.run.ledger import CLUSTERS_FILE
from raymia.run.storage import Storage

CALIPER = 0.2
"""Greatest difference within a pair, in standard deviations of the propensity's logit (Austin, 2011)."""
PROPENSITY_STRATA = 20
MAX_ROUNDS = 8
MATCH_SUMMARY_FILE = "match.json"
PROPENSITY_FILE = "propensity.parquet"
MatchingMethod = Literal["pairs", "strata"]


class BlindState(BaseModel):
    """How well members are told from non-members by classifiers that never see the attacked model."""

    members: int
    non_members: int
    auc: dict[str, Interval]
    """Out-of-fold AUC of each blind baseline, with DeLong's interval."""
    embedding_shift: FrechetShift | None
    """Fréchet distance of the members' embeddings from the non-members'; none without embeddings."""

    @property
    def strongest(self) -> str:
        """The baseline whose interval reaches least far down."""
        return max(self.auc, key=lambda name: self.auc[name].low)

    def meets(self, target: float | None) -> bool:
        """Whether the baselines find nothing (their intervals reach down to .5) or, with a target, no AUC is above it."""
        return all(auc.low <= 0.5 if target is None else auc.value <= target for auc in self.auc.values())


class MatchSummary(BaseModel):
    """Contents of match.json: what a data set gave away before and after, and how many samples that cost."""

    method: str
    target_auc: float | None
    met: bool
    """Whether the target was met before the rounds were used up."""
    rounds: int
    before: BlindState
    after: BlindState
    lost: dict[str, int]
    """Samples left out, by split."""
    without_features: int
    """Samples that have no features and are left out."""
    fold_captions: bool
    """Whether captions were made alike as CLIP's tokenizer reads them."""


class Matched(BaseModel):
    """The result of `match` and `sanitise`."""

    manifest: Manifest
    summary: MatchSummary


def match(
    manifest_file: str,
    out: str,
    console: Console,
    features: str | None = None,
    method: MatchingMethod = "pairs",
    target_auc: float | None = None,
    size: int | None = None,
    fold_captions: bool = False,
    seed: int = 0,
) -> Matched:
    """Choose members and non-members that are alike, and write their manifest.

    Args:
        manifest_file: see `raymia.data.manifest.load_manifest`; its features must be there.
        out: folder for the manifest, `selection.parquet`, `clusters.parquet` (near-duplicates and pairs), `propensity.parquet`
            and `match.json`.
        console: where each round is shown.
        features: see `raymia.curation.embed.load_features`.
        method: ``pairs`` within a caliper, or ``strata`` of propensity that are sampled down to equal numbers.
        target_auc: stop when no blind baseline is above this; by default when none is above .5 for certain.
        size: keep at most so many members, and as many non-members.
        fold_captions: read captions as CLIP's tokenizer does, in lower case; the manifest then says so.
        seed: seed of folds and draws.

    Raises:
        ConfigError: labels or features are missing, or the splits have too little in common.
    """
    storage = output_folder(out, manifest_file)
    known = load_features(manifest_file, features)
    member, clusters = known.member, cluster_groups(known.table)
    before = blind_state(known.table, member, clusters, seed)
    table = known.table.assign(caption=known.table["caption"].map(fold)) if fold_captions else known.table
    table = table.assign(propensity=np.nan)
    kept = np.arange(len(table))
    state = blind_state(table, member, clusters, seed) if fold_captions else before
    groups, rounds = clusters, 0
    while not state.meets(target_auc) and rounds < MAX_ROUNDS:
        rounds += 1
        scores = propensity(table.iloc[kept], member[kept], _only(groups, kept), seed + rounds)
        table.loc[kept, "propensity"] = scores
        pairs = kept[
            pair_up(scores, member[kept], CALIPER * scores.std())
            if method == "pairs"
            else thin_strata(scores, member[kept], seed + rounds)
        ]
        kept = np.sort(pairs.ravel())
        if not can_fold(member[kept]):
            raise ConfigError(
                f"manifest {known.manifest.name}: round {rounds} leaves {_counted(member[kept])}: the splits have too "
                f"little in common ({_strongest(state)}); set a higher --target-auc, see whether --fold-captions helps, or "
                "draw other samples"
            )
        groups = _with_pairs(clusters, pairs, len(table))
        state = blind_state(table.iloc[kept], member[kept], _only(groups, kept), seed)
        console.print(f"round {rounds}: {_counted(member[kept])} left, {_strongest(state)}", markup=False, highlight=False)
    paired = groups if rounds else None
    if size is not None:
        kept = _draw(kept, member, paired, size, seed)
        state = blind_state(table.iloc[kept], member[kept], _only(groups, kept), seed)
    outcome = _Outcome(method, target_auc, rounds, before, state, fold_captions)
    return _write(known, storage, table, kept, paired, outcome)


def sanitise(manifest_file: str, out: str, features: str | None = None, seed: int = 0) -> Matched:
    """Keep only the members that a classifier of captions takes for non-members, and every non-member.

    The one-sided rule of the authors of LAION-mi, here out of fold, on CLIP embeddings of the captions. It makes a
    classifier of captions useless or worse and leaves images alone; `match` is what to use, this is for comparison. Dubinski et
    al., arXiv 2306.12983.

    Args:
        manifest_file: see `match`.
        out: see `match`; without `clusters.parquet`.
        features: see `match`.
        seed: seed of the folds.

    Raises:
        ConfigError: labels or features are missing, or no member is left.
    """
    storage = output_folder(out, manifest_file)
    known = load_features(manifest_file, features)
    member, groups = known.member, cluster_groups(known.table)
    before = blind_state(known.table, member, groups, seed)
    scores = out_of_fold(linear_model(), known.vectors(TEXT_EMBEDDING), member, seed, groups)
    kept = np.flatnonzero(~member | (scores < 0))
    if not can_fold(member[kept]):
        raise ConfigError(f"manifest {known.manifest.name}: leaves {_counted(member[kept])}: captions tell nearly all members")
    state = blind_state(known.table.iloc[kept], member[kept], _only(groups, kept), seed)
    table = known.table.assign(propensity=scores)
    return _write(known, storage, table, kept, None, _Outcome("sanitise", None, 1, before, state, False))


def blind_state(table: pd.DataFrame, member: NDArray[np.bool_], groups: Groups, seed: int) -> BlindState:
    """Run the blind baselines on a set.

    Args:
        table: the samples' features; see `raymia.curation.embed.Features`.
        member: (n,) which samples are members.
        groups: (n,) group of each sample, never split between folds; none where each stands alone.
        seed: seed of the folds.

    Raises:
        ConfigError: too few samples for folds.
    """
    if not can_fold(member):
        raise ConfigError(f"{_counted(member)}: too few to see whether they are alike; expected at least 5 of each")
    scores = blind_scores(table, member, seed, groups)
    vectors = embeddings(table)
    return BlindState(
        members=int(member.sum()),
        non_members=int((~member).sum()),
        auc={name: delong(of_baseline, member) for name, of_baseline in scores.items()},
        embedding_shift=None if vectors is None else frechet_shift(vectors, member, seed),
    )


def propensity(table: pd.DataFrame, member: NDArray[np.bool_], groups: Groups, seed: int) -> Floats:
    """(n,) log-odds of being a member, by all that a data set gives away, always by classifiers fitted to other samples.

    The scores of each blind baseline and of a classifier of the captions' embeddings are combined by a logistic regression.

    Args:
        table: the samples' features; see `raymia.curation.embed.Features`.
        member: (n,) which samples are members.
        groups: (n,) group of each sample, never split between folds; none where each stands alone.
        seed: seed of the folds.
    """
    scores = blind_scores(table, member, seed, groups)
    texts = embeddings(table, TEXT_EMBEDDING)
    if texts is not None:
        scores["text_embedding"] = out_of_fold(linear_model(), texts, member, seed, groups)
    return out_of_fold(linear_model(), np.column_stack(list(scores.values())), member, seed + 1, groups)


def pair_up(scores: Floats, member: NDArray[np.bool_], caliper: float) -> NDArray[np.int64]:
    """(pairs, 2) numbers of a member and a non-member whose scores differ by at most `caliper`.

    Along a line, taking pairs from the bottom up gives as many pairs as can be had.

    Args:
        scores: (n,) propensity.
        member: (n,) which samples are members.
        caliper: greatest difference within a pair.
    """
    order = np.argsort(scores, kind="stable")
    members, others = order[member[order]], order[~member[order]]
    pairs: list[tuple[int, int]] = []
    i = j = 0
    while i < len(members) and j < len(others):
        difference = scores[members[i]] - scores[others[j]]
        if abs(difference) <= caliper:
            pairs.append((int(members[i]), int(others[j])))
        i += difference <= caliper
        j += difference >= -caliper
    return np.array(pairs, np.int64).reshape(-1, 2)


def thin_strata(scores: Floats, member: NDArray[np.bool_], seed: int, strata: int = PROPENSITY_STRATA) -> NDArray[np.int64]:
    """(pairs, 2) numbers of members and non-members when each stratum of scores is sampled down to equal numbers.

    Args:
        scores: (n,) propensity.
        member: (n,) which samples are members.
        seed: seed of the draw.
        strata: how many strata there are, each with about as many samples.
    """
    random = np.random.default_rng(seed)
    edges = np.quantile(scores, np.linspace(0, 1, strata + 1)[1:-1])
    stratum = np.searchsorted(edges, scores, side="right")
    pairs: list[NDArray[np.int64]] = []
    for number in range(strata):
        sides = [np.flatnonzero((stratum == number) & (member == label)) for label in (True, False)]
        smaller = min(map(len, sides))
        drawn = [random.choice(side, smaller, replace=False) for side in sides]
        pairs.append(np.stack([side[np.argsort(scores[side], kind="stable")] for side in drawn], axis=1))
    return np.concatenate(pairs).astype(np.int64)


def _with_pairs(groups: Groups, pairs: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """(count,) group of each sample, so that pairs and clusters stay together.

    Pairs make the splits equal as a whole. A fold that breaks them is unequal by just as much as the rest is in the other
    direction, and a classifier of no use then scores below .5.
    """
    links = [pairs]
    if groups is not None:
        _, first, number = np.unique(groups, return_index=True, return_inverse=True)
        links.append(np.stack([first[number], np.arange(count)], axis=1))
    return components(count, np.concatenate(links))


def _draw(kept: NDArray[np.int64], member: NDArray[np.bool_], groups: Groups, size: int, seed: int) -> NDArray[np.int64]:
    """Members and non-members drawn at random, whole pairs where there are any, `size` of each at most."""
    random = np.random.default_rng(seed)
    if groups is None:
        sides = [kept[member[kept] == label] for label in (True, False)]
        return np.sort(np.concatenate([random.choice(side, min(size, len(side)), replace=False) for side in sides]))
    order = random.permutation(pd.unique(groups[kept]))
    place = pd.Series(np.arange(len(order)), index=pd.Index(order))
    ranked = kept[np.argsort(place.reindex(pd.Index(groups[kept])).to_numpy(), kind="stable")]
    drawn = [ranked[member[ranked] == label][:size] for label in (True, False)]
    return np.sort(np.concatenate(drawn))


@dataclass(frozen=True)
class _Outcome:
    """How the samples that stay were chosen, and what that achieved; see `MatchSummary`."""

    method: str
    target_auc: float | None
    rounds: int
    before: BlindState
    after: BlindState
    fold_captions: bool


def _write(
    known: Features, storage: Storage, table: pd.DataFrame, kept: NDArray[np.int64], groups: Groups, outcome: _Outcome
) -> Matched:
    """Write the manifest of the samples that stay, and what led to it.

    Args:
        table: a row per sample, with its `propensity`.
        kept: numbers of the rows that stay.
        groups: (n,) group of each sample, which becomes its cluster; none to leave the manifest's clusters as they are.
        outcome: what the summary says.
    """
    chosen = np.zeros(len(table), bool)
    chosen[kept] = True
    lost = table["split"][~chosen].value_counts()
    summary = MatchSummary(
        method=outcome.method,
        target_auc=outcome.target_auc,
        met=outcome.after.meets(outcome.target_auc),
        rounds=outcome.rounds,
        before=outcome.before,
        after=outcome.after,
        lost={split.name: int(lost.get(split.name, 0)) for split in known.manifest.splits},
        without_features=known.lost,
        fold_captions=outcome.fold_captions,
    )
    write_frame(storage, PROPENSITY_FILE, table[[*IDENTITY, "propensity"]].assign(kept=chosen))
    storage.write(MATCH_SUMMARY_FILE, summary.model_dump_json(indent=2).encode() + b"\n")
    fields: dict[str, Any] = {"fold_captions": outcome.fold_captions or known.manifest.fold_captions}
    if groups is not None:
        write_clusters(storage, table[chosen], groups[chosen])
        fields["clusters"] = CLUSTERS_FILE
    made = derive_from(known, storage, table.loc[chosen, IDENTITY], **fields)
    return Matched(manifest=made, summary=summary)


def _only(groups: Groups, kept: NDArray[np.int64]) -> Groups:
    return None if groups is None else groups[kept]


def _counted(member: NDArray[np.bool_]) -> str:
    return f"{int(member.sum()):,} members and {int((~member).sum()):,} non-members"


def _strongest(state: BlindState) -> str:
    auc = state.auc[state.strongest]
    return f"blind.{state.strongest} {auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]"
