"""Texts that are encoded before a scan, by a pool of text encoders alone."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

import raymia
from raymia.attacks.base import ATTACKS
from raymia.config import parse_job
from raymia.errors import ConfigError
from raymia.replica.folder import find_pipeline
from raymia.replica.schedule import level_names
from raymia.run.storage import Storage
from raymia.scan.cost import prompts_of
from raymia.scan.plan import make_plan
from raymia.scan.texts import FOLDER, ready, texts_alone
from tests.conftest import good_members, image_bytes
from tests.replica.test_every_family import cases
from tests.scan.test_pipeline import make_job, scan

Write = Callable[[str, list[tuple[str, bytes]]], Path]
GUIDED = {"loss": {"timesteps": [100], "draws": 1}, "clid": {"timesteps": [400], "draws": 1}}
STAGED = {"dtype": "float32", "resolution_px": 64, "text": "stage"}


@pytest.mark.usefixtures("local_ray")
def test_a_scan_whose_texts_are_encoded_first_scores_as_one_whose_replicas_encode_and_leaves_no_texts(
    tmp_path: Path, write_tar: Write, tiny: Path
) -> None:
    write_tar("m0.tar", [*good_members(9), ("0020.jpg", image_bytes(1)[:400]), ("0020.txt", b"cut"), ("0021.txt", b"no image")])
    write_tar("n0.tar", [*good_members(3, start=100), ("0103.jpg", image_bytes(7))])
    counts, rows = scan(make_job(tmp_path, tiny, "staged", attacks=GUIDED, replica={"model": str(tiny), **STAGED}))
    assert counts.scored == 13
    assert counts.by_reason == {"corrupt_image": 1, "no_image": 1}
    assert rows.key.tolist() == [f"{number:04d}" for number in (*range(9), 100, 101, 102, 103)]
    images = [image_bytes(int(key)) for key in rows.key[:-1]] + [image_bytes(7)]
    pictures = [Image.open(io.BytesIO(content)) for content in images]
    expected = raymia.score(
        pictures, list(rows.caption), model=str(tiny), attacks=GUIDED, keys=list(rows.key), resolution_px=64, progress=False
    )
    for name in (name for name in rows if name.startswith(("loss", "clid"))):
        assert rows[name].to_numpy() == pytest.approx(expected[name].to_numpy(), rel=1e-4, abs=1e-6), name
    assert not Storage(str(tmp_path / "staged" / FOLDER)).names("", "")


def asked(attacks: dict[str, object], captions: list[str]) -> list[str]:
    content = {
        "manifest": "-",
        "replica": {"model": "testbed"},
        "attacks": attacks,
        "run": "-",
        "clip": "testbed",
        "copies": "clip",
    }
    return prompts_of(parse_job(content, "job").attacks.values(), level_names(), captions)


def test_every_prompt_of_every_attack_is_found_without_a_model() -> None:
    prompts = asked({"clid": {}, "generation": {}, "random": {}}, ["one two three four", "five"])
    assert {"one two three four", "one", "one two three", "five", ""} <= set(prompts)
    assert len(prompts) == len(set(prompts))
    assert asked({"random": {}, "autoencoder": {}}, ["one"]) == []
    assert {"one", ""} <= set(asked({name: {} for name in ATTACKS.names()}, ["one"]))


def test_what_is_encoded_already_is_not_encoded_again_and_images_are_left_behind(tmp_path: Path, tiny: Path) -> None:
    job = make_job(tmp_path, tiny, "run", attacks=GUIDED, replica={"model": str(tiny), **STAGED})
    encode = ready(job, "float32", "cpu", None)
    assert isinstance(encode, partial)
    samples = [
        {"image": b"bytes", "caption": "own", "prompt": None, "reason": None},
        {"image": b"bytes", "caption": "own", "prompt": "told", "reason": None},
        {"image": None, "caption": None, "prompt": None, "reason": "no_image"},
    ]
    table = texts_alone(pa.table({"samples": [samples, None]}))
    assert table.to_pydict() == {"told": [["own", "told"], []]}
    store = Storage(str(tmp_path / "run" / FOLDER))
    at_load = set(store.names("", ""))
    assert encode(table).to_pydict() == {"texts": [2, 0]}
    after = set(store.names("", ""))
    assert len(after - at_load) == 2
    written = {name: (tmp_path / "run" / FOLDER / name).stat().st_mtime_ns for name in after}
    encode(table)
    assert {name: (tmp_path / "run" / FOLDER / name).stat().st_mtime_ns for name in after} == written


def test_a_model_without_text_encoders_has_no_texts_to_stage(tmp_path: Path, write_tar: Write) -> None:
    write_tar("m0.tar", good_members(1))
    write_tar("n0.tar", good_members(1, start=5))
    case = cases()["ddpm"]
    model = case.save(tmp_path / "p")
    job = make_job(tmp_path, model, "run", attacks={"loss": {}}, replica={"model": str(model), **STAGED, "resolution_px": 32})
    with pytest.raises(ConfigError, match=r"replica.text: stage: models of the family ddpm have no text encoders"):
        make_plan(job)
    assert find_pipeline(str(model), with_weights=True).family.name == "ddpm"
