"""How images look, as numbers that say nothing of the model: what a score can be adjusted for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from raymia.evaluation.baselines.base import complete
from raymia.evaluation.baselines.statistics import SIZE, features
from raymia.evaluation.embeddings import embeddings
from raymia.evaluation.roc import Floats
from raymia.run.columns import EMBEDDING

ERROR, LATENT = "autoencoder", "autoencoder.latent"
"""Signals of the control `autoencoder`."""
ROUNDING = (2 / 255) ** 2 / 12
"""Mean squared error of rounding to 8 bits, in images on -1..1: no autoencoder's error means anything below."""
NOTHING = 1e-3
"""Bytes per pixel, and length of latents, that are too small to be told from none."""
COLUMNS = (*SIZE, EMBEDDING, ERROR, LATENT)
"""Columns that are gone without where some rows lack them."""


@dataclass(frozen=True)
class Appearance:
    """How n images look.

    Attributes:
        facts: (n, facts) size, bytes per pixel, image statistics, the autoencoder's error, the length of the latents and of the
            caption; as far as every image has them.
        embedding: (n, width) CLIP embeddings, or (n, 0).
    """

    facts: Floats
    embedding: Floats

    @property
    def columns(self) -> Floats:
        """(n, facts + width) all of it, the facts first."""
        return np.column_stack([self.facts, self.embedding])


def appearance(table: pd.DataFrame) -> Appearance | None:
    """How the images of a table's n rows look; none where nothing tells it.

    Sizes, errors and lengths are taken by their logarithms: they have long tails, and scores follow ratios of them. The length
    of the caption is added where something tells of the image itself.

    Args:
        table: columns that blind baselines read, and the signals of the control `autoencoder`.
    """
    if not tells_looks(table):
        return None
    facts = []
    if all(complete(table, name) for name in SIZE):
        statistics = features(table)
        facts.append(np.column_stack([np.log(statistics[:, :4] + NOTHING), statistics[:, 4:]]))
    if complete(table, ERROR):
        facts.append(np.log(np.maximum(0.0, -table[ERROR].to_numpy(float)) + ROUNDING))
    if complete(table, LATENT):
        facts.append(np.log(np.maximum(0.0, -table[LATENT].to_numpy(float)) + NOTHING))
    vectors = embeddings(table)
    if complete(table, "caption"):
        facts.append(np.log1p(table["caption"].astype(str).str.len().to_numpy(float)))
    return Appearance(
        facts=np.column_stack(facts) if facts else np.empty((len(table), 0)),
        embedding=np.empty((len(table), 0)) if vectors is None else vectors,
    )


def tells_looks(table: pd.DataFrame) -> bool:
    """Whether `appearance` has anything to say of a table's rows; no column is copied."""
    return all(complete(table, name) for name in SIZE) or any(complete(table, name) for name in (ERROR, LATENT, EMBEDDING))


def lacking(table: pd.DataFrame) -> dict[str, int]:
    """Rows that lack a column which others have, by the column: `appearance` goes without it."""
    empty = {name: int(table[name].isna().sum()) for name in COLUMNS if name in table}
    return {name: count for name, count in empty.items() if 0 < count < len(table)}
