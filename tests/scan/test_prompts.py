"""The list of images to make by hand: a file for every image, which is that image's for good."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from raymia.config import Job, parse_job
from raymia.errors import ConfigError
from raymia.scan.pipeline import run_scan
from raymia.scan.prompts import Listed, write_prompts
from tests.conftest import image_bytes, tar_bytes

SPLITS = {"members": [("0000", "=a red fox"), ("0001", "a barn")], "non_members": [("0000", "a red fox"), ("0001", "a barn")]}


def job_of(folder: Path, works: dict[str, list[tuple[str, str]]], images: int = 1, **options: Any) -> Job:
    """A job over splits of keys and captions, whose images are made in FOLDER/made."""
    splits = []
    for split, samples in works.items():
        members = []
        for number, (key, caption) in enumerate(samples):
            members += [(f"{key}.jpg", image_bytes(number)), (f"{key}.txt", caption.encode())]
        (folder / f"{split}.tar").write_bytes(tar_bytes(members))
        splits.append({"name": split, "member": split == "members", "shards": [f"{split}.tar"]})
    (folder / "manifest.yaml").write_text(json.dumps({"name": "set", "splits": splits}))
    content = {
        "manifest": str(folder / "manifest.yaml"),
        "replica": {"service": "folder", "path": str(folder / "made"), "resolution_px": 64},
        "attacks": {"generation": {"images": images, "metric": "ssim"}},
        "pool": {"replicas": 1},
        "run": str(folder / "run"),
    }
    return parse_job({**content, **options}, "job")


def listed_in(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "made" / "prompts.csv", dtype=str, keep_default_na=False)


def files_in(folder: Path) -> dict[str, str]:
    """Files by prompt, of the first draws."""
    table = listed_in(folder)
    return {row.prompt: row.file for row in table[table["draw"] == "0"].itertuples()}


def make(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (folder / "made" / name).write_bytes(image_bytes(number))


def test_the_list_names_a_file_for_every_image_and_for_no_two_captions_the_same(tmp_path: Path) -> None:
    job = job_of(tmp_path, SPLITS, images=2)
    listed = write_prompts(job)
    table = listed_in(tmp_path)
    assert (listed.images, listed.made) == (len(table), 0)
    # The second work of both splits has the same key and the same caption: it is the same question.
    assert sorted(table["file"]) == ["0000-2.0.png", "0000-2.1.png", "0000.0.png", "0000.1.png", "0001.0.png", "0001.1.png"]
    assert list(table.loc[table["file"].str.startswith("0000."), "prompt"]) == ["'=a red fox"] * 2, "no formula"
    make(tmp_path, "0001.1.jpg")
    assert write_prompts(job).made == 1
    pd.testing.assert_frame_equal(table, listed_in(tmp_path))


def test_names_of_files_are_safe_and_differ_where_file_systems_see_no_difference(tmp_path: Path) -> None:
    keys = ["A", "a", "-1", "so/../what", "\u732b", "\u72ac", "a-2"]
    write_prompts(job_of(tmp_path, {"all": [(key.replace("/", ":"), f"prompt {place}") for place, key in enumerate(keys)]}))
    names = ["A.0.png", "a-2.0.png", "_-1.0.png", "so_", "_.0.png", "_-2.0.png", "a-2-2.0.png"]
    found = list(files_in(tmp_path).values())
    assert [name for name, expected in zip(found, names, strict=True) if not name.startswith(expected)] == []


def test_an_image_keeps_its_file_when_works_are_added_before_it(tmp_path: Path) -> None:
    write_prompts(job_of(tmp_path, {"all": [("0", "a fox")]}))
    make(tmp_path, "0.0.png")
    added = job_of(tmp_path, {"new": [("0", "a barn")], "all": [("0", "a fox")]}, images=2)
    assert write_prompts(added) == Listed(file=str(tmp_path / "made" / "prompts.csv"), images=4, made=1)
    assert files_in(tmp_path) == {"a barn": "0-2.0.png", "a fox": "0.0.png"}
    assert "0.1.png" in set(listed_in(tmp_path)["file"]), "a later draw goes by the first one's name"


def test_an_image_is_never_taken_for_that_of_another_prompt(tmp_path: Path) -> None:
    """A work whose caption was corrected asks for a new image, whichever list the old one was made by."""
    for made, caption in enumerate(["a fox", "a barn", "a boat", "a cow"]):
        listed = write_prompts(job_of(tmp_path, {"all": [("0", caption)]}))
        assert (listed.images, listed.made) == (1, 0)
        files = files_in(tmp_path)
        assert len(files) == made + 1, "what was made stays in the list"
        make(tmp_path, files[caption])
    assert len(set(files.values())) == 4


def test_an_image_that_is_wanted_no_more_leaves_the_list_unless_it_is_there(tmp_path: Path) -> None:
    write_prompts(job_of(tmp_path, {"all": [("0", "a fox"), ("1", "a barn")]}))
    make(tmp_path, "0.0.png")
    assert write_prompts(job_of(tmp_path, {"all": [("2", "a boat")]})).images == 1
    assert files_in(tmp_path) == {"a boat": "2.0.png", "a fox": "0.0.png"}


def test_a_list_that_needs_no_change_stays_as_a_person_left_it(tmp_path: Path) -> None:
    job = job_of(tmp_path, SPLITS)
    write_prompts(job)
    noted = listed_in(tmp_path).iloc[::-1].assign(note="by Ann")
    noted.to_csv(tmp_path / "made" / "prompts.csv", index=False)
    before = (tmp_path / "made" / "prompts.csv").read_bytes()
    write_prompts(job)
    assert (tmp_path / "made" / "prompts.csv").read_bytes() == before


def test_a_table_of_another_kind_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "prompts.csv").write_text("mine\n1\n")
    with pytest.raises(ConfigError, match=r"no column file, id; it has mine\. It is not written over"):
        write_prompts(job_of(tmp_path, SPLITS))
    assert (tmp_path / "made" / "prompts.csv").read_text() == "mine\n1\n"


def test_no_works_make_a_list_of_nothing(tmp_path: Path) -> None:
    job = job_of(tmp_path, {"all": []})
    assert write_prompts(job).images == write_prompts(job).images == 0
    assert list(listed_in(tmp_path)) == ["file", "key", "draw", "prompt", "id"]


@pytest.mark.usefixtures("bare_loop")
@pytest.mark.parametrize("source", ["own", "shuffled"])
def test_a_scan_asks_for_what_the_list_names_and_nothing_else(tmp_path: Path, source: str) -> None:
    job = job_of(tmp_path, SPLITS, images=2, caption_source=source)
    write_prompts(job)
    make(tmp_path, *listed_in(tmp_path)["file"])
    counts = run_scan(job, Console(quiet=True))
    assert (counts.scored, counts.quarantined) == (4, 0)
