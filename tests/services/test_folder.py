"""Images made by hand: each is found by what it answers, in whatever format, and only within its folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from rich.console import Console

from raymia.attacks.generation import Generation
from raymia.config import Job, parse_job
from raymia.errors import ConfigError
from raymia.run.ledger import Ledger
from raymia.run.shown import exhibits_of
from raymia.scan.pipeline import run_scan
from raymia.scan.plan import make_plan
from raymia.scan.prompts import write_prompts
from raymia.services.folder import Folder, name_of
from raymia.services.protocol import Queries, ServiceError, Surroundings
from raymia.spreadsheet import NUMBER
from raymia.trial.trial import Trial
from tests.conftest import image_bytes, tar_bytes

CAPTIONS = {"members": ["=a red fox", "a barn"], "non_members": ["a red fox", "a barn"]}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Two splits that have the same keys, and one caption in common."""
    splits = []
    for split, captions in CAPTIONS.items():
        members = []
        for number, caption in enumerate(captions):
            members += [(f"{number:04d}.jpg", image_bytes(number)), (f"{number:04d}.txt", caption.encode())]
        (tmp_path / f"{split}.tar").write_bytes(tar_bytes(members))
        splits.append({"name": split, "member": split == "members", "shards": [f"{split}.tar"], "samples": 2})
    (tmp_path / "manifest.yaml").write_text(json.dumps({"name": "set", "splits": splits}))
    return parse_job(
        {
            "manifest": str(tmp_path / "manifest.yaml"),
            "replica": {"service": "folder", "path": str(tmp_path / "made"), "resolution_px": 64},
            "attacks": {"generation": {"images": 2, "metric": "ssim"}},
            "pool": {"replicas": 1},
            "run": str(tmp_path / "run"),
            "max_quarantined_fraction": 1.0,
        },
        "job",
    )


def make(file: Path, seed: int, size: tuple[int, int] = (64, 64), kind: str = "PNG") -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind)


@pytest.mark.usefixtures("bare_loop")
def test_a_scan_scores_what_was_made_and_says_what_was_not(job: Job, tmp_path: Path) -> None:
    write_prompts(job)
    made = tmp_path / "made"
    make(made / "0000.0.png", 1)
    make(made / "0000.1.jpg", 2, kind="JPEG")
    make(made / "0001.0.png", 3, size=(200, 100))
    make(made / "0001.1.webp", 4, kind="WEBP")
    counts = run_scan(job, Console(quiet=True))
    assert (counts.scored, counts.quarantined, counts.by_reason) == (3, 1, {"not_made": 1})
    table = Ledger(str(tmp_path / "run")).scores().to_pandas()
    assert set(zip(table["split"], table["key"], strict=True)) == {
        ("members", "0000"),
        ("members", "0001"),
        ("non_members", "0001"),
    }
    same = table.set_index(["split", "key"])["generation"]
    assert same["members", "0001"] == same["non_members", "0001"]
    assert exhibits_of(Ledger(str(tmp_path / "run")), "generation", 12)


def test_an_image_is_prepared_as_a_work_is(job: Job, tmp_path: Path) -> None:
    write_prompts(job)
    make(tmp_path / "made" / "0000.0.png", 1, size=(300, 200))
    assert job.hosted is not None
    box = job.hosted.open(None, Surroundings())
    image = box.answer(Queries(["0000"], 0, ["=a red fox"], [1], 64, 64, None, None))
    assert image.shape == (1, 3, 64, 64)
    work = Trial(None, image, ["=a red fox"], ["0000"], 0, black_box=box)
    scores = Generation(images=1, steps=None, guidance=None, metric="ssim").score(work)
    assert torch.allclose(scores["generation"], torch.ones(1), atol=1e-5)


@pytest.mark.parametrize("end", [".PNG", ".JPG", ".jpeg"])
def test_an_image_is_found_by_the_ending_that_it_was_saved_with(job: Job, tmp_path: Path, end: str) -> None:
    write_prompts(job)
    make(tmp_path / "made" / f"0000.0{end}", 1)
    assert job.hosted is not None
    assert job.hosted.open(None, Surroundings()).answer(Queries(["0000"], 0, ["=a red fox"], [1], 64, 64, None, None)).any()


@pytest.mark.parametrize(
    "name", ["../outside.png", "/etc/hostname", "linked.png", "sub/../../outside.png", ".", "n" * 300, "round.png"]
)
def test_no_file_outside_the_folder_is_read(job: Job, tmp_path: Path, name: str) -> None:
    write_prompts(job)
    make(tmp_path / "outside.png", 1)
    (tmp_path / "made" / "linked.png").symlink_to(tmp_path / "outside.png")
    (tmp_path / "made" / "round.png").symlink_to(tmp_path / "made" / "round.png")
    (tmp_path / "made" / "prompts.csv").write_text(f"file,id\n{name},{name_of('k', 'p', 0)}\n")
    assert job.hosted is not None
    with pytest.raises(ServiceError, match="not_made"):
        job.hosted.open(None, Surroundings()).answer(Queries(["k"], 0, ["p"], [1], 64, 64, None, None))


def test_what_is_no_image_too_large_or_not_in_the_list_has_its_reason(job: Job, tmp_path: Path) -> None:
    write_prompts(job)
    made = tmp_path / "made"
    (made / "0000.0.png").write_bytes(b"no image")
    make(made / "0000.1.png", 1)
    box = Folder(service="folder", path=str(made), max_image_bytes=2**10).open(None, Surroundings())
    asked = {0: "no_image", 1: "answer_too_large", 2: "not_asked"}
    for draw, reason in asked.items():
        with pytest.raises(ServiceError, match=f"^{reason}: "):
            box.answer(Queries(["0000"], draw, ["=a red fox"], [1], 64, 64, None, None))


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        ("a.0.png,one\n,two", "row 2 lacks file or id"),
        ("a.0.png,one\nb.0.png,one", "one stands in 2 rows"),
        ("a.0.png,one\nA.0.png,two", r"a\.0\.png stands in 2 rows"),
    ],
)
def test_a_list_that_gives_one_image_to_two_captions_or_none_to_one_is_refused(
    job: Job, tmp_path: Path, rows: str, wrong: str
) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "prompts.csv").write_text(f"file,id\n{rows}\n")
    assert job.hosted is not None
    with pytest.raises(ConfigError, match=wrong):
        job.hosted.open(None, Surroundings())


def test_no_identity_looks_like_a_number_to_a_spreadsheet() -> None:
    names = [name_of("key", "prompt", draw) for draw in range(20_000)]
    assert not [name for name in names if NUMBER.fullmatch(name)]
    assert [name for name in names if name.startswith("x")], "some would have"


def test_a_run_is_of_another_model_where_the_list_differs_and_of_the_same_where_more_may_be_read(job: Job) -> None:
    write_prompts(job)
    assert isinstance(job.hosted, Folder)
    more = job.hosted.model_copy(update={"max_image_bytes": 2**20})
    assert more.fingerprint() == job.hosted.fingerprint()
    before = job.hosted.fingerprint()
    write_prompts(job.model_copy(update={"attacks": {"generation": Generation(images=1)}}))
    assert job.hosted.fingerprint() != before


def test_a_url_is_refused_as_a_folder() -> None:
    with pytest.raises(ValidationError, match="expected a local folder"):
        Folder(service="folder", path="s3://bucket/made")


def test_a_job_without_a_list_or_without_any_image_is_refused_before_the_scan(job: Job) -> None:
    with pytest.raises(ConfigError, match=r"no prompts\.csv; raymia data prompts JOB\.yaml writes it"):
        make_plan(job)
    write_prompts(job)
    with pytest.raises(ConfigError, match=r"has none of the 6 images that its prompts\.csv names"):
        make_plan(job)


def test_attacks_that_need_a_noise_level_are_refused_by_name(job: Job) -> None:
    content = json.loads(job.model_dump_json())
    for attack in ("pokemon", "rediffuse"):
        with pytest.raises(ConfigError, match=f"attacks.{attack}: asks for image_to_image, lossless, strength, which"):
            parse_job({**content, "attacks": {attack: {}}}, "job")
    with pytest.raises(ConfigError, match="the job asks no folder"):
        write_prompts(parse_job({**content, "replica": {"model": "testbed"}, "attacks": {"loss": {}}}, "job"))
