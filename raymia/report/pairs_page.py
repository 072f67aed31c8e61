"""A sheet of the closest pairs that `raymia data dedup` found, for people to judge."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from raymia.report.page import render_page
from raymia.report.thumbnails import thumbnails
from raymia.run.storage import Storage

if TYPE_CHECKING:  # curation needs torch and Ray, which reading does not
    from raymia.curation.dedup import Deduplicated

PAIRS_FILE = "pairs.html"
CLOSEST = 24
PER_BIN = 6
"""Pairs drawn at random from each range of distances."""


@dataclass(frozen=True)
class PairImage:
    """One side of a pair."""

    split: str
    key: str
    caption: str
    source: str | None


@dataclass(frozen=True)
class Pair:
    """Two images that count as twins."""

    sides: tuple[PairImage, PairImage]
    distance: float
    agreement: float | None


def write_pairs_page(result: Deduplicated, out: Storage) -> str:
    """Write the sheet: the closest pairs across splits, and some of each range of distances; return where it is."""
    pairs = result.pairs
    across = pairs[pairs["one_split"] != pairs["other_split"]]
    groups = {"Closest across splits": across.head(CLOSEST)}
    for part in result.summary.bins:
        inside = pairs[(pairs["distance"] >= part.low) & (pairs["distance"] < part.high)]
        drawn = inside.sample(min(PER_BIN, len(inside)), random_state=0).sort_values("distance")
        groups[f"Distance {part.low:g} to {part.high:g}: {len(drawn)} of {len(inside):,} pairs, drawn at random"] = drawn
    groups = {title: rows for title, rows in groups.items() if len(rows)}
    urls = {reader.place: reader.shard.url for reader in result.features.readers}
    identities = [
        (str(row[f"{side}_split"]), str(row[f"{side}_shard"]), str(row[f"{side}_key"]))
        for rows in groups.values()
        for _, row in rows.iterrows()
        for side in ("one", "other")
    ]
    sources = thumbnails(urls, identities)
    shown = {title: list(_pairs(rows, sources)) for title, rows in groups.items()}
    page = render_page("pairs.html", title=result.manifest.name, summary=result.summary, groups=shown)
    out.write(PAIRS_FILE, page.encode())
    return f"{out.url}/{PAIRS_FILE}"


def _pairs(rows: pd.DataFrame, sources: dict[tuple[str, str, str], str]) -> Iterable[Pair]:
    for _, row in rows.iterrows():
        sides = tuple(
            PairImage(
                split=row[f"{side}_split"],
                key=row[f"{side}_key"],
                caption=row[f"{side}_caption"],
                source=sources.get((row[f"{side}_split"], row[f"{side}_shard"], row[f"{side}_key"])),
            )
            for side in ("one", "other")
        )
        agreement = row.get("agreement")
        yield Pair((sides[0], sides[1]), float(row["distance"]), None if pd.isna(agreement) else float(agreement))
