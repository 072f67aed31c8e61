"""Real pictures with a known shift and known twins, packed and with features, for every test of curation."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from raymia.config import PoolConfig
from raymia.curation.dedup import Deduplicated, dedup
from raymia.curation.embed import embed
from raymia.curation.inputs import find_parts
from raymia.curation.pack import pack
from raymia.curation.verification import MIN_AGREEMENT
from raymia.data.manifest import load_manifest
from raymia.data.selection import shard_readers
from raymia.data.tar import RawSample
from raymia.testbed import ASSETS

CONSOLE = Console(stderr=True)
PER_SIDE, TWINS = 240, 60
MEMBERS_ARE = {"signs_and_symbols", "people"}
TWINS_WITHIN = 0.6
"""The test bed's small CLIP puts a picture and its cropped self further apart than a large one does."""
TWIN_KINDS = ("resized", "reencoded", "cropped")


@pytest.fixture(scope="session")
def categories() -> dict[str, str]:
    """Kind of picture by key, of the test bed's samples."""
    with gzip.open(ASSETS / "provenance.csv.gz", "rt") as stream:
        return {row["key"]: row["source_path"].split("/")[0] for row in csv.DictReader(stream)}


@pytest.fixture(scope="session")
def shifted(tmp_path_factory: pytest.TempPathFactory, local_ray: None, categories: dict[str, str]) -> Path:
    """A manifest with features: members are signs and people with captions in capitals, non-members are other pictures.

    A fifth of either side is of the other side's kind, so that a fair set can be had. The first members have a twin among the
    non-members, under the key `KIND_KEY`.
    """
    folder = tmp_path_factory.mktemp("shifted")
    sides: dict[bool, list[tuple[RawSample, bytes]]] = {True: [], False: []}
    for number, (sample, image) in enumerate(_pictures()):
        sides[(categories[sample.key] in MEMBERS_ARE) != (number % 5 == 0)].append((sample, image))
    for member, name in ((True, "members"), (False, "non_members")):
        (folder / name).mkdir()
        for sample, image in sides[member][:PER_SIDE]:
            _write(folder / name, sample.key, image, sample.caption.upper() if member else sample.caption)
    for number, (sample, image) in enumerate(sides[True][:TWINS]):
        kind = TWIN_KINDS[number % len(TWIN_KINDS)]
        _write(folder / "non_members", f"{kind}_{sample.key}", _twin(image, kind), sample.caption)
    parts = [part for split in ("members", "non_members") for part in find_parts(split, str(folder / split), None, 150)]
    pack("shifted", {"members": True, "non_members": False}, parts, str(folder / "packed"), CONSOLE)
    manifest = folder / "packed" / "manifest.yaml"
    embed(str(manifest), "testbed", None, PoolConfig(replicas=1, gpus_per_replica=0, batch_size=64), CONSOLE)
    return manifest


@pytest.fixture(scope="session")
def deduplicated(shifted: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Deduplicated, Path]:
    """What `dedup` finds in the shifted set, and the manifest without the twins."""
    out = tmp_path_factory.mktemp("dedup")
    return dedup(str(shifted), str(out), CONSOLE, None, TWINS_WITHIN, MIN_AGREEMENT), out / "manifest.yaml"


def _pictures() -> Iterator[tuple[RawSample, bytes]]:
    for reader in shard_readers(*load_manifest("testbed")):
        for item in reader.read():
            if isinstance(item, RawSample) and item.image is not None:
                yield item, item.image


def _write(folder: Path, key: str, image: bytes, caption: str) -> None:
    (folder / f"{key}.jpg").write_bytes(image)
    (folder / f"{key}.txt").write_text(caption)


def _twin(image: bytes, kind: str) -> bytes:
    picture = Image.open(io.BytesIO(image)).convert("RGB")
    width, height = picture.size
    if kind == "resized":
        picture = picture.resize((width * 3 // 2, height * 3 // 2))
    elif kind == "cropped":
        picture = picture.crop((width // 20, height // 20, width, height))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=40 if kind == "reencoded" else 90)
    return buffer.getvalue()
