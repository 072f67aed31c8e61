"""Folders of pictures of the test bed, as an owner has them, and an audit of them."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from raymia.data.manifest import load_manifest
from raymia.data.selection import shard_readers
from raymia.data.tar import RawSample
from raymia.evidence.asking import Asked
from raymia.evidence.beside import Beside
from raymia.evidence.sets import Sources
from raymia.evidence.works import commit_to, conduct, prepare
from tests.conftest import without_ray

QUIET = Console(quiet=True)
WORKS, CONTROL = 32, 36
ATTACKS = "attacks={loss: {timesteps: [100, 300], draws: 1}, clid: {timesteps: [300], draws: 1}, random: {}}"
MEMORISED = {"repeated": 6, "once": 6, "beside": 10}
CLAIMS = """
model: testbed
cut_off: {value: "2023-03", source: https://example.org/card, retrieved: "2026-11-01"}
data_sets: [{name: Clip Art 2B, released: "2022", source: https://example.org/card, retrieved: "2026-11-01"}]
"""
ASKED = Asked(model="testbed", changes=(ATTACKS, "pool.batch_size=36"))


def pictures_of(split: str, count: int, named: str = "testbed") -> list[RawSample]:
    """The first pictures of a split of a manifest, such as the test bed's members or non-members."""
    manifest, folder = load_manifest(named)
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


@pytest.fixture(scope="session")
def looked(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    """The folder of an audit of a model that has works by heart, with all that can be looked at beside scores.

    A list names the works that it has by heart and one of the control; works and control carry dates.
    """
    folder = tmp_path_factory.mktemp("looked")
    works = [one for split, count in MEMORISED.items() for one in pictures_of(split, count, "testbed-memorised")]
    # Of the shard that the LoRA was not trained on. The first is listed, the last of an earlier day.
    control = sorted(pictures_of("held_back", 256, "testbed-lora")[-24:], key=lambda one: one.key)
    write_pictures(folder / "works", works)
    write_pictures(folder / "others", control)
    for name, dates in (("works", ["2019"] * len(works)), ("others", ["2024-05-01"] * 23 + ["2021"])):
        files = sorted(file.name for file in (folder / name).glob("*.jpg"))
        captions = [(folder / name / file).with_suffix(".txt").read_text() for file in files]
        table = {"file": files, "caption": captions, "published": dates}
        pd.DataFrame(table).to_csv(folder / name / "works.csv", index=False)
    named = [*works[: MEMORISED["repeated"]], control[0]]
    digests = [hashlib.sha256(one.image or b"").hexdigest() for one in named]
    pd.DataFrame({"url": [f"https://example.org/{one.key}" for one in named], "sha256": digests}).to_csv(folder / "list.csv")
    (folder / "claims.yaml").write_text(CLAIMS)
    sources = Sources(str(folder / "works" / "works.csv"), str(folder / "others" / "works.csv"))
    beside = Beside((str(folder / "list.csv"),), str(folder / "claims.yaml"), extract=True)
    own = ("attacks.extraction.steps=8", "attacks.extraction.draws=2", "attacks.extraction.guidance=3")
    asked = Asked("testbed", ("testbed-memorised",), clip="testbed", changes=(ATTACKS, "pool.batch_size=46", *own))
    prepared = prepare(sources, asked, folder / "audit", QUIET, beside)
    committed = commit_to(prepared)
    with without_ray():
        conduct(prepared, *committed, QUIET)
    return folder / "audit"
