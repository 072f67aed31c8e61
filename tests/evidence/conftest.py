"""Folders of pictures of the test bed, as an owner has them, and an audit of them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from raymia.data.manifest import load_manifest
from raymia.data.selection import shard_readers
from raymia.data.tar import RawSample
from raymia.evidence.asking import Asked
from raymia.evidence.sets import Sources
from raymia.evidence.works import commit_to, conduct, prepare
from tests.conftest import without_ray

QUIET = Console(quiet=True)
WORKS, CONTROL = 32, 36
ATTACKS = "attacks={loss: {timesteps: [100, 300], draws: 1}, clid: {timesteps: [300], draws: 1}, random: {}}"
ASKED = Asked(model="testbed", changes=(ATTACKS, "pool.batch_size=36"))


def pictures_of(split: str, count: int) -> list[RawSample]:
    """The first pictures of the test bed's members or non-members."""
    manifest, folder = load_manifest("testbed")
    found = []
    for reader in shard_readers(manifest, folder):
        for item in reader.read() if reader.shard.split == split else ():
            if isinstance(item, RawSample) and item.image is not None:
                found.append(item)
            if len(found) == count:
                return found
    raise AssertionError(f"{split} has {len(found)} pictures")


def write_pictures(folder: Path, pictures: list[RawSample]) -> None:
    folder.mkdir(parents=True)
    for one in pictures:
        (folder / f"{one.key}.jpg").write_bytes(one.image or b"")
        (folder / f"{one.key}.txt").write_text(one.caption)


@pytest.fixture(scope="session")
def owned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Works of which one is broken and two show the same, and a control of which one shows a work."""
    folder = tmp_path_factory.mktemp("owned")
    works = pictures_of("members", WORKS)
    write_pictures(folder / "works", works)
    write_pictures(folder / "others", pictures_of("non_members", CONTROL))
    (folder / "works" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    first = Image.open(io.BytesIO(works[0].image or b"")).convert("RGB")
    first.resize((48, 48)).save(folder / "works" / "smaller.png")
    first.save(folder / "others" / "copied.jpg", quality=60)
    return folder


@pytest.fixture(scope="session")
def audited(owned: Path, local_ray: None) -> Path:
    """The folder of an audit of these."""
    prepared = prepare(Sources(str(owned / "works"), str(owned / "others")), ASKED, owned / "audit", QUIET)
    committed = commit_to(prepared)
    with without_ray():
        conduct(prepared, *committed, QUIET)
    return owned / "audit"
