"""CLIP embeddings of a manifest's images and captions: a scan with no attacked model, into a run directory like any other."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console

from raymia.config import PoolConfig, differences
from raymia.data.clusters import join_clusters, load_clusters
from raymia.data.facts import STATISTICS_RESOLUTION_PX
from raymia.data.images import MAX_PIXELS
from raymia.data.manifest import Manifest, load_manifest, within
from raymia.data.prompts import Prompts
from raymia.data.selection import ShardReader, fold, selection_digest, shard_readers
from raymia.data.shapes import Placed, square
from raymia.data.tar import Fault
from raymia.engine.pool import Pool
from raymia.engine.start import on_ray
from raymia.errors import ConfigError
from raymia.evaluation.embeddings import embeddings
from raymia.evaluation.roc import Floats
from raymia.run.columns import EMBEDDING, TEXT_EMBEDDING, embedded
from raymia.run.ledger import Ledger
from raymia.run.lock import RunLock
from raymia.run.record import FORMAT, Counts, Evaluations, FeaturesRecord, now_text
from raymia.scan.pipeline import Stream, score_all
from raymia.scan.scorer import images_on
from raymia.shipped import clip_folder
from raymia.urls import without_secrets

UNIT_SIZE = 1024
"""Samples in a unit, the grain of commit and resume."""


class Embedder:
    """A CLIP in front of decoded batches; see `raymia.scan.rows.RowScorer`."""

    def __init__(self, clip: str, device: str, threads: int | None) -> None:
        """Load a CLIP.

        Args:
            clip: see `raymia.features.clip.Clip`, or ``testbed``.
            device: ``cpu`` or ``cuda``.
            threads: CPU threads that this process may use; none leaves torch's default.
        """
        import torch

        from raymia.features.clip import Clip

        if threads is not None:
            torch.set_num_threads(threads)
        self._device = torch.device(device)
        self._clip = Clip(clip_folder(clip), self._device)
        self.evaluations = Evaluations()
        self.transfer_s = 0.0

    def score(
        self, pixels: NDArray[np.uint8], captions: Sequence[str], keys: Sequence[str], sizes: Sequence[Placed]
    ) -> list[dict[str, float | list[float]] | Fault]:
        """Embed each image and its caption.

        Args:
            pixels: (batch, side, side, 3) of 8 bits.
            captions: caption of each image.
            keys, sizes: of each sample, which embeddings do not depend on.

        Returns:
            Both embeddings of each sample by column, or a fault where CLIP gives none.
        """
        start = time.perf_counter()
        images = images_on(self._device, pixels)
        self.transfer_s += time.perf_counter() - start
        embedded_pairs = zip(self._clip.embed_images(images).tolist(), self._clip.embed_texts(captions).tolist(), strict=True)
        return [
            {EMBEDDING: image, TEXT_EMBEDDING: text}
            if np.isfinite(image).all() and np.isfinite(text).all()
            else Fault("non_finite", "CLIP gives no finite embedding")
            for image, text in embedded_pairs
        ]


@dataclass(frozen=True)
class Features:
    """What curation knows of the samples that count.

    Attributes:
        manifest: the samples' manifest.
        folder: where its relative paths start.
        readers: readers of its shards.
        table: a row per sample: split, shard, key, member, caption, size, image statistics, embeddings (in Arrow), and cluster
            where the manifest names clusters.
        lost: samples without features, such as images that do not decode.
        url: path or URL of the folder that holds the features.
    """

    manifest: Manifest
    folder: str
    readers: list[ShardReader]
    table: pd.DataFrame
    lost: int
    url: str

    @property
    def member(self) -> NDArray[np.bool_]:
        """(n,) which samples are members.

        Raises:
            ConfigError: the membership of a sample is unknown, or there are only members or only non-members.
        """
        labels = self.table["member"]
        if labels.isna().any():
            split = self.table["split"][labels.isna()].iloc[0]
            raise ConfigError(f"manifest {self.manifest.name}: membership of split {split} is unknown; this needs labels")
        member = labels.astype(bool).to_numpy()
        if member.all() or not member.any():
            raise ConfigError(f"manifest {self.manifest.name}: needs splits of members and of non-members")
        return member

    def vectors(self, column: str = EMBEDDING) -> Floats:
        """(n, width) embeddings.

        Args:
            column: the embeddings' column of the table.

        Raises:
            ConfigError: a sample has none.
        """
        vectors = embeddings(self.table, column)
        if vectors is None:
            raise ConfigError(f"features {self.url}: rows without {column}; run `raymia data embed` again")
        return vectors


def embed(manifest_file: str, clip: str, out: str | None, pool: PoolConfig, console: Console) -> tuple[Counts, str]:
    """Compute features of every sample of a manifest; the same call resumes.

    Args:
        manifest_file: see `raymia.data.manifest.load_manifest`.
        clip: folder, ARCHITECTURE/TAG of open_clip, or ``testbed``.
        out: folder for the features; by default the manifest's, else ``features/NAME`` beside the manifest.
        pool: how many replicas of the CLIP run, and where.
        console: where progress is shown.

    Returns:
        How many samples became what, and the folder of the features.

    Raises:
        ConfigError: the manifest, the CLIP or the folder cannot be used.
        RaymiaError: the stage failed; what was committed is kept.
    """
    from raymia.features.clip import check_clip

    manifest, folder = load_manifest(manifest_file)
    readers = shard_readers(manifest, folder)
    check_clip(clip_folder(clip))
    url = out or features_folder(manifest, folder)
    ledger = Ledger(url)
    ledger.require_writable()
    record = _new_record(ledger, clip, manifest, readers)
    with RunLock(ledger.storage), on_ray("embed", pool.replicas or pool.max_replicas or 1):
        ledger.write_run(record)
        place = Pool.here(pool)
        rows = Stream(
            what="embed",
            readers=readers,
            expected=manifest.samples,
            unit_size=UNIT_SIZE,
            batch_size=pool.batch_size,
            shapes=square(STATISTICS_RESOLUTION_PX),
            max_pixels=MAX_PIXELS,
            prompts=Prompts("own", 0),
            row_type=embedded(),
            load=partial(Embedder, clip, place.device, place.threads),
        )
        score_all(rows, ledger, place, console)
        record.finished, record.counts = now_text(), ledger.counts(manifest.samples)
        ledger.write_run(record)
    return record.counts, url


def _new_record(ledger: Ledger, clip: str, manifest: Manifest, readers: list[ShardReader]) -> FeaturesRecord:
    """The record of the attempt that begins now.

    Raises:
        ConfigError: see `_before`.
    """
    parts = {
        "clip": clip,
        "shards": [reader.shard.model_dump() for reader in readers],
        "selection": selection_digest(readers),
        "manifest": manifest.model_dump(mode="json"),
    }
    identity = dict(without_secrets(parts))
    before = _before(ledger, identity)
    return FeaturesRecord(
        **identity,
        expected=manifest.samples,
        attempts=(before.attempts if before else 0) + 1,
        started=before.started if before else now_text(),
        attempted=now_text(),
        finished=None,
    )


def _before(ledger: Ledger, identity: dict[str, Any]) -> FeaturesRecord | None:
    """The record of the features that are resumed; none where there are none yet.

    Raises:
        ConfigError: they are of other samples, or of another CLIP, or were begun by another version.
    """
    before = ledger.read_run()
    if before is None:
        return None
    if not isinstance(before, FeaturesRecord) or before.format != FORMAT:
        raise ConfigError(f"features {ledger.run}: a scan, or begun by another version of raymia; choose another folder")
    content = before.model_dump(mode="json")
    changed = differences({key: content.get(key) for key in identity}, identity)
    if changed:
        raise ConfigError(f"features {ledger.run}: of another data set or CLIP; choose another folder: {'; '.join(changed)}")
    return before


def features_folder(manifest: Manifest, folder: str) -> str:
    """The folder where a manifest's features are, or will be.

    Args:
        manifest: the manifest, as `raymia.data.manifest.load_manifest` gives it.
        folder: where its relative paths start.
    """
    return within(folder, manifest.features or posixpath.join("features", manifest.name))


def load_features(manifest_file: str, features: str | None = None) -> Features:
    """Read the features of the samples that count.

    Args:
        manifest_file: see `raymia.data.manifest.load_manifest`.
        features: folder that `embed` filled, for these samples and perhaps more; by default see `features_folder`.

    Raises:
        ConfigError: there are no features, or not of all shards.
    """
    manifest, folder = load_manifest(manifest_file)
    readers = shard_readers(manifest, folder)
    url = features or features_folder(manifest, folder)
    ledger = Ledger(url)
    command = f"raymia data embed {manifest_file}" + (f" --features {features}" if features else "")
    run = ledger.read_run()
    if run is None:
        raise ConfigError(f"features {url}: there are none; compute them: {command}")
    if run.finished is None:
        raise ConfigError(f"features {url}: not computed to their end; go on: {command}")
    table = ledger.frame()
    if TEXT_EMBEDDING not in table:
        raise ConfigError(f"features {url}: a run directory of a scan, not of `raymia data embed`")
    known = {(str(split), str(shard)) for split, shard in table[["split", "shard"]].drop_duplicates().to_numpy()}
    unknown = [reader for reader in readers if reader.place not in known and reader.keys != frozenset()]
    quarantine = ledger.quarantine().to_pandas()
    for reader in unknown:
        if not ((quarantine["split"] == reader.place[0]) & (quarantine["shard"] == reader.place[1])).any():
            raise ConfigError(f"features {url}: none of {'/'.join(reader.place)}; compute them with another --features")
    table = _that_count(table, readers)
    labels = {split.name: split.label for split in manifest.splits}
    table["member"] = pd.Series([labels[split] for split in table["split"]], index=table.index, dtype=object)
    if manifest.fold_captions:
        table["caption"] = table["caption"].map(fold)
    table = join_clusters(table, load_clusters(manifest, folder))
    if not len(table):
        raise ConfigError(f"features {url}: none of the samples of manifest {manifest_file}")
    return Features(manifest, folder, readers, table, max(0, (manifest.samples or 0) - len(table)), url)


def _that_count(table: pd.DataFrame, readers: list[ShardReader]) -> pd.DataFrame:
    """The rows of the samples that count."""
    counts = pd.Series(False, index=table.index)
    keys = {reader.place: reader.keys for reader in readers}
    for place, rows in table.groupby(["split", "shard"]).groups.items():
        if place in keys:
            selected = keys[place]
            counts[rows] = True if selected is None else table.loc[rows, "key"].isin(selected)
    return table[counts].reset_index(drop=True)
