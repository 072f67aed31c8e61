from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from raymia.config import PoolConfig
from raymia.curation.embed import embed, load_features
from raymia.data.facts import STATISTICS_RESOLUTION_PX
from raymia.data.images import MAX_PIXELS, decode_image
from raymia.data.manifest import load_manifest
from raymia.data.selection import shard_readers
from raymia.data.tar import RawSample
from raymia.errors import ConfigError
from raymia.features.clip import Clip
from raymia.testbed import CLIP
from tests.curation.conftest import CONSOLE

ONE = PoolConfig(replicas=1, gpus_per_replica=0, batch_size=64)


def test_embeddings_are_those_of_clip_for_image_and_caption(shifted: Path) -> None:
    known = load_features(str(shifted))
    assert len(known.table) == known.manifest.samples == 540
    samples = [item for item in shard_readers(*load_manifest(str(shifted)))[0].read() if isinstance(item, RawSample)][:4]
    clip = Clip(str(CLIP), torch.device("cpu"))
    pixels = np.stack([decode_image(sample.image or b"", STATISTICS_RESOLUTION_PX, MAX_PIXELS).pixels for sample in samples])
    images = clip.embed_images(torch.tensor(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1).numpy()
    texts = clip.embed_texts([sample.caption for sample in samples]).numpy()
    members = known.table[known.table["split"] == "members"].reset_index().set_index("key")
    rows = members.loc[[sample.key for sample in samples], "index"]
    assert np.allclose(known.vectors()[rows], images, atol=1e-4)
    assert np.allclose(known.vectors("clip_text_embedding")[rows], texts, atol=1e-4)
    assert np.allclose(np.linalg.norm(known.vectors(), axis=1), 1, atol=1e-4)


def test_features_are_of_one_set_and_one_clip_and_computed_once(shifted: Path) -> None:
    folder = shifted.parent / "features" / "shifted"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    counts, url = embed(str(shifted), "testbed", None, ONE, CONSOLE)
    assert url == str(folder)
    assert counts.scored == 540
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    assert json.loads((folder / "run.json").read_text())["attempts"] >= 2
    with pytest.raises(ConfigError, match=r"of another data set or CLIP.*clip"):
        embed(str(shifted), str(CLIP), None, ONE, CONSOLE)


def test_a_manifest_of_fewer_samples_takes_what_it_needs_of_the_features(shifted: Path, tmp_path: Path) -> None:
    manifest, folder = load_manifest(str(shifted))
    few = tmp_path / "few.yaml"
    few.write_text(
        f"name: few\nfeatures: {folder}/features/shifted\nsplits:\n"
        f"- {{name: members, member: true, shards: [{folder}/{manifest.splits[0].shards[0]}]}}\n"
    )
    assert len(load_features(str(few)).table) == 150
    with pytest.raises(ConfigError, match="needs splits of members and of non-members"):
        _ = load_features(str(few)).member
