"""Works that a model has by heart come back, and those that it met once do not; at the command line, as a user asks."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from raymia.cli import app
from raymia.config import parse_job
from raymia.errors import ConfigError, RaymiaError
from raymia.evaluation.extraction import Extraction
from raymia.evidence import extraction
from raymia.evidence.asking import Asked
from raymia.evidence.extraction import HANDFUL, LEAST, Wanted, choose, conduct, prepare
from raymia.evidence.extraction_beside import prepare_beside
from raymia.report.extraction_page import read_extraction
from raymia.run.files import DamagedRunError
from raymia.run.ledger import Ledger
from raymia.scan.pipeline import run_scan
from raymia.testbed.build import BESIDE, REPEATED
from tests.conftest import good_members, image_bytes, tar_bytes, without_ray
from tests.services.faulty import Server, serving, wait_briefly

QUIET = Console(quiet=True)
DRAWS, STEPS = 2, 8
ASKED = ("--manifest", "testbed", "--model", "testbed", "--out", "x")
SMALL = ("--set", "replica.resolution_px=64", "--set", "pool.replicas=1", "--set", "pool.gpus_per_replica=0")
SMALL += ("--set", "pool.batch_size=32")
QUICK = ("--set", f"attacks.extraction.steps={STEPS}", "--set", "attacks.extraction.guidance=3", "--draws", str(DRAWS))


@pytest.fixture(scope="module", autouse=True)
def bare_loop() -> Iterator[None]:
    """In this process and in one batch, which changes no score and is quicker on two cores."""
    alone = mock.patch.object(extraction, "on_ray", return_value=nullcontext())
    with without_ray(), alone, mock.patch.multiple(extraction, BATCH=32, UNIT=32):
        yield


def extract(*words: str | Path, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["extract", *map(str, words)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return " ".join(done.stdout.split())


def read(folder: Path) -> Extraction:
    return Extraction.model_validate_json((folder / "extraction.json").read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("memorised") / "found"
    model = ("--model", "testbed", "--adapter", "testbed-memorised")
    return folder, extract("--manifest", "testbed-memorised", *model, *SMALL, *QUICK, "--out", folder)


def test_pictures_that_were_repeated_come_back_and_as_many_that_were_not_do_not(found: tuple[Path, str]) -> None:
    result = read(found[0])
    back = {split: sum(bool(one.extracted) for one in result.works if one.split == split) for split in ("repeated", "once")}
    assert back == {"repeated": REPEATED, "once": 0}
    assert result.extracted == REPEATED
    captions = 2 * REPEATED + BESIDE
    assert (result.captions.read, result.captions.chosen, result.captions.answered) == (captions, captions, captions)
    assert (result.floor.captions, result.floor.pairs) == (captions, captions * (captions - 1) * DRAWS - result.floor.left_out)
    first = result.works[0]
    assert first.similarity > max(one.floor or 0.0 for one in result.works) == result.floor.highest
    assert (first.steps, first.guidance, first.height, first.p) == (STEPS, 3.0, 64, pytest.approx(1 / captions))


def test_what_is_printed_and_shown_says_what_it_rests_on(found: tuple[Path, str]) -> None:
    folder, printed = found
    result = read(folder)
    assert f"{REPEATED} of {result.captions.answered} works: told the caption {DRAWS} times" in printed
    assert f"The floor rests on {result.floor.pairs:,} pairs" in printed
    assert "no threshold is published" in printed
    page = (folder / "report" / "index.html").read_text()
    assert page.count('<strong class="v-evidence">came back</strong>') == REPEATED
    assert page.count('<img src="data:image/jpeg;base64,') == 2 * len(result.works)
    assert f"seed {result.works[0].seed}, {STEPS} steps, guidance 3, 64 x 64 px" in page
    assert "What this does not show" in page
    image = folder / "report" / str(result.works[0].image)
    assert image.read_bytes().startswith(b"\x89PNG")


def test_the_same_command_makes_the_same_again_and_scores_nothing(found: tuple[Path, str]) -> None:
    folder, _ = found
    before = (folder / "extraction.json").read_bytes()
    with mock.patch("raymia.scan.pipeline.stream", side_effect=AssertionError("nothing is left to score")):
        model = ("--model", "testbed", "--adapter", "testbed-memorised")
        extract("--manifest", "testbed-memorised", *model, *SMALL, *QUICK, "--out", folder)
    assert (folder / "extraction.json").read_bytes() == before
    with pytest.raises(ConfigError, match="was begun with other captions"):
        extract("--manifest", "testbed-memorised", *model, *SMALL, *QUICK, "--out", folder, "--top", "10", "--floor", "0")


def samples_of(count: int) -> pd.DataFrame:
    scores = np.random.default_rng(0).permutation(count).astype(float)
    names = [f"{number:05d}" for number in range(count)]
    return pd.DataFrame({"split": "s", "shard": "a", "key": names, "caption": "a work", "screened": scores})


@pytest.mark.parametrize(
    ("count", "wanted", "chosen", "drawn"),
    [
        (HANDFUL, Wanted(), HANDFUL, 0),
        (HANDFUL + 1, Wanted(floor=5), LEAST, 5),
        (2000, Wanted(floor=7), 20, 7),
        (2001, Wanted(floor=0), 21, 0),
        (40, Wanted(top=5.0), 2, 20),
        (7, Wanted(top=0.1, floor=50), 1, 6),
        (30, Wanted(top=100.0), 30, 0),
    ],
)
def test_the_highest_captions_are_chosen_and_the_floor_is_drawn_from_the_rest(
    count: int, wanted: Wanted, chosen: int, drawn: int
) -> None:
    samples = samples_of(count)
    asked = choose(samples, wanted, 3)
    assert asked["role"].value_counts().to_dict() == {"chosen": chosen, "drawn": drawn} if drawn else {"chosen": chosen}
    highest = sorted(samples["screened"], reverse=True)[:chosen]
    assert sorted(asked.loc[asked["role"].eq("chosen"), "screened"], reverse=True) == highest
    assert asked["key"].is_unique
    pd.testing.assert_frame_equal(asked, choose(samples.sample(frac=1, random_state=1), wanted, 3))


def test_samples_without_a_caption_are_never_asked_and_some_caption_there_must_be() -> None:
    samples = samples_of(60)
    samples.loc[samples["screened"].nlargest(5).index, "caption"] = " "
    asked = choose(samples, Wanted(top=100.0), 0)
    assert len(asked) == 55
    with pytest.raises(RaymiaError, match="no sample that can be read has a caption"):
        choose(samples.assign(caption=None), Wanted(), 0)


@pytest.fixture
def works(tmp_path: Path) -> Path:
    """Works of which one has no caption, one a caption that would steer a page, and one cannot be read."""
    members = [
        *good_members(3),
        ("bare.jpg", image_bytes(7)),
        ("odd.jpg", image_bytes(8)),
        ("odd.txt", b"<script>alert(1)</script>"),
    ]
    (tmp_path / "works.tar").write_bytes(tar_bytes([*members, ("broken.jpg", b"no image"), ("broken.txt", b"a broken one")]))
    manifest = {"name": "works", "splits": [{"name": "works", "member": "unknown", "shards": ["works.tar"], "samples": 6}]}
    (tmp_path / "works.yaml").write_text(json.dumps(manifest))
    return tmp_path / "works.yaml"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    wait_briefly(monkeypatch)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-test")
    with serving() as one:
        yield one


def test_a_service_is_asked_for_every_caption_once_and_within_its_budget(works: Path, tmp_path: Path, server: Server) -> None:
    fields: dict[str, Any] = {"url": server.url, "extensions": "muse", "timeout_s": 5.0, "price_per_image": 0.04}
    told = [word for name, value in fields.items() for word in ("--set", f"replica.{name}={value}")]
    asked = ("--manifest", works, "--service", "openai", *SMALL, *told, "--clip", "testbed", "--draws", "2")
    with pytest.raises(ConfigError, match=r"replica\.budget: 0\.10 USD, but the scan asks for 14 images"):
        extract(*asked, "--set", "replica.budget=0.1", "--out", tmp_path / "found")
    with pytest.raises(ConfigError, match="--top: captions cannot be screened by service openai"):
        extract(*asked, "--top", "5", "--out", tmp_path / "found")
    assert not server.asked
    extract(*asked, "--out", tmp_path / "found", "--set", "max_quarantined_fraction=0.5")
    # Four works with a caption, twice each, and two first questions; of the broken one nothing is asked.
    assert len(server.asked) == 2 * 4 + 2
    result = read(tmp_path / "found")
    counts = result.captions
    assert (counts.read, counts.without_caption, counts.chosen, counts.answered) == (6, 1, 5, 4)
    assert sum(counts.unanswered.values()) == 1
    assert {one.seed for one in result.works} <= {body["seed"] for body, _ in server.asked}
    assert {one.extracted for one in result.works} == {None}, "four captions decide nothing"
    page = (tmp_path / "found" / "report" / "index.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    before = len(server.asked)
    extract(*asked, "--out", tmp_path / "found", "--set", "max_quarantined_fraction=0.5", "--json")
    assert len(server.asked) == before, "answers are kept, and paid for once"
    assert Ledger(str(tmp_path / "found" / "generated")).require_scan().attempts == 2


def test_beside_another_scan_its_works_model_and_answers_serve_again(tmp_path: Path, server: Server) -> None:
    for split, start in (("works", 0), ("control", 10)):
        (tmp_path / f"{split}.tar").write_bytes(tar_bytes(good_members(3, start=start)))
    splits = [{"name": name, "member": "unknown", "shards": [f"{name}.tar"], "samples": 3} for name in ("works", "control")]
    (tmp_path / "set.yaml").write_text(json.dumps({"name": "set", "splits": splits}))
    job = parse_job(
        {
            "manifest": str(tmp_path / "set.yaml"),
            "replica": {"service": "openai", "url": server.url, "extensions": "muse", "resolution_px": 64, "timeout_s": 5.0},
            "attacks": {"generation": {"images": 2, "metric": "clip", "steps": 20}, "extraction": {"steps": 20, "draws": 9}},
            "clip": "testbed",
            "copies": "clip",
            "run": str(tmp_path / "audit" / "run"),
        },
        "job",
    )
    generation = job.model_copy(update={"attacks": {"generation": job.attacks["generation"]}})
    run_scan(generation, QUIET)
    asked = len(server.asked)
    assert read_extraction(f"{tmp_path}/audit/extraction") is None
    prepared = prepare_beside(job, tmp_path / "audit" / "extraction", Wanted(draws=2), splits=["works"])
    found, _ = conduct(prepared, QUIET)
    assert len(server.asked) == asked, "the same words and seeds were answered before"
    assert ({one.split for one in found.works}, found.captions.read, found.draws) == ({"works"}, 3, 2)
    shown = read_extraction(f"{tmp_path}/audit/extraction", most=2)
    assert shown is not None
    assert (shown.extraction, shown.decided, len(shown.pairs)) == (found, False, 2)
    assert shown.files == ["extraction.json", "report/images/000.png", "report/images/001.png"]
    assert all(pair.work and pair.image for pair in shown.pairs)
    (tmp_path / "audit" / "extraction" / shown.files[1]).write_bytes(image_bytes(3, "PNG"))
    with pytest.raises(DamagedRunError, match=r"000\.png: not there, or not the image"):
        read_extraction(f"{tmp_path}/audit/extraction")
    with pytest.raises(ConfigError, match="no split 'other'; it has works, control"):
        prepare_beside(job, tmp_path / "x", Wanted(), splits=["other"])
    with pytest.raises(ConfigError, match="copies: give sscd:FILE"):
        prepare_beside(generation.model_copy(update={"clip": None, "copies": None}), tmp_path / "x", Wanted())


def test_works_that_show_the_same_are_one_picture_whatever_their_size(tmp_path: Path) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC)
    members = [*good_members(2), ("big.jpg", jpeg(picture, 90)), ("big.txt", b"a big one")]
    members += [("less.jpg", jpeg(picture.resize((64, 64)), 80)), ("less.txt", b"a small one")]
    (tmp_path / "works.tar").write_bytes(tar_bytes(members))
    manifest = {"name": "works", "splits": [{"name": "works", "member": "unknown", "shards": ["works.tar"]}]}
    (tmp_path / "works.yaml").write_text(json.dumps(manifest))
    asked = Asked(model="testbed", clip="testbed", changes=("replica.resolution_px=64",))
    prepared = prepare(asked, str(tmp_path / "works.yaml"), "clip", Wanted(), tmp_path / "x")
    chosen = extraction._listed(prepared.generation)[0]
    numbers = dict(zip(chosen["key"], extraction._pictures(prepared.generation, chosen), strict=True))
    assert numbers["big"] == numbers["less"]
    assert len(set(numbers.values())) == 3


def jpeg(picture: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--manifest", "testbed", "--model", "testbed"), "--out: give a folder"),
        ((*ASKED, "--set", "manifest=other.yaml"), "--set manifest, --set run: give --manifest and --out instead"),
        (("--model", "testbed", "--out", "x"), "--manifest: give the works"),
        (("--manifest", "testbed", "--out", "x"), "--model: give a folder"),
        ((*ASKED, "--top", "0"), "--top 0: expected a percentage"),
        ((*ASKED, "--copies", "sscd"), "expected sscd:FILE, dinov2"),
        ((*ASKED, "--copies", "sscd:gone.safetensors"), "no such file"),
        (("--manifest", "testbed", "--model", "testbed-tiny", "--out", "x"), "--copies: give sscd:FILE"),
        (
            (*ASKED, "--set", "caption_source=empty"),
            "caption_source: empty",
        ),
        ((*ASKED, "--set", "attacks.extraction.images=3"), "images"),
    ],
)
def test_what_is_missing_or_cannot_be_is_said_before_anything_is_made(
    words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(message)):
        extract(*words)
    assert not list(tmp_path.iterdir())


def test_a_dry_run_says_how_many_captions_are_asked_and_loads_nothing(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["extract", "--manifest", "testbed", "--model", "testbed", "--dry-run", "--out", str(tmp_path / "x")]
    )
    assert done.exit_code == 0, done.output
    # 1 % of 1,024 captions and 20 for the floor, 10 images of 50 steps under guidance each.
    assert "up to 31 captions are asked, 10 images each: 1,000 forwards a caption, 31,000 in all" in " ".join(
        done.output.split()
    )
    assert not (tmp_path / "x").exists()
