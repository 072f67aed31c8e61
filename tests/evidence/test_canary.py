"""Randomised hold-backs, by the commands that an owner uses: planned, changed, lost, and found out."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest
from typer.testing import CliRunner

from raymia.attacks.base import ATTACKS
from raymia.cli import app
from raymia.cli.console import err
from raymia.cli.printing_canary import chances, print_result
from raymia.config import parse_job
from raymia.curation import pack
from raymia.data.manifest import load_manifest
from raymia.data.selection import shard_readers
from raymia.data.tar import RawSample
from raymia.errors import ConfigError, RaymiaError
from raymia.evidence import canary, canary_scan
from raymia.evidence.canary import Plan, PlannedWork, draw_plan, read_plan, write_plan
from raymia.evidence.canary_declared import Declared, declared, require_declared
from raymia.evidence.canary_scan import CanaryResult
from tests.conftest import without_ray
from tests.services.faulty import serving, wait_briefly

FEW = ["attacks.loss.timesteps=[100, 300]", "attacks.loss.draws=1"]
LOSS = declared(["loss"], [], 99_999, 0.05, FEW)
PER_SIDE = 16


@contextmanager
def here() -> Iterator[None]:
    """Within this block works are packed and scanned in this process; the tests of sets pack on Ray by the same function."""

    def run_parts(what: str, parts: Sequence[Any], work: Callable[[Any], Any], *_: object) -> None:
        for part in parts:
            work(part)

    alone = mock.patch.object(canary_scan, "on_ray", return_value=nullcontext())
    with without_ray(), mock.patch.object(pack, "run_parts", run_parts), alone:
        yield


def run(*words: str | Path) -> Any:
    """Invoke a command in this process; return what it printed as JSON."""
    done = CliRunner().invoke(app, ["canary", *(str(word) for word in words), "--json"])
    if done.exception is not None:
        raise done.exception
    return json.loads(done.stdout)


def shown(*words: str | Path) -> str:
    done = CliRunner().invoke(app, ["canary", *(str(word) for word in words)])
    if done.exception is not None:
        raise done.exception
    return " ".join(done.stdout.split())


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((80, 64), Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def works(tmp_path: Path) -> Path:
    """Twelve pictures, five of them a series, one with a caption; a copy of one, a smaller version of another, and no image."""
    folder = tmp_path / "works"
    for number in range(12):
        picture(folder / (f"series/{number:02d}.png" if number < 5 else f"{number:02d}.png"), number)
    (folder / "07.txt").write_text("a red boat")
    shutil.copy(folder / "08.png", folder / "copy.png")
    Image.open(folder / "09.png").resize((60, 48)).save(folder / "small.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def test_a_plan_draws_half_of_the_units_and_its_hash_is_that_of_its_file(works: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    found = run("plan", works, "--out", file, "--attack", "loss", "--set", "attacks.loss.draws=2", "--set", "seed=7")
    assert (found["works"], found["units"], found["publish_units"], found["joined"]) == (14, 12, 6, 2)
    assert found["left_out"] == {"unknown_format": 1}
    assert (found["test"]["parameters"]["loss"]["draws"], found["test"]["options"]) == (2, {"seed": 7})
    assert found["commitment"] == hashlib.sha256(file.read_bytes()).hexdigest()
    plan = read_plan(file)
    unit = {work.path: work.unit for work in plan.works}
    assert unit["copy.png"] == unit["08.png"]
    assert unit["small.png"] == unit["09.png"]
    assert {work.path: work.caption for work in plan.works if work.caption} == {"07.png": "a red boat"}
    lists = [file.with_suffix(f".{name}.txt").read_text().splitlines() for name in ("publish", "hold")]
    assert sorted(lists[0] + lists[1]) == sorted(unit)
    assert {plan.assignment[unit[path]] for path in lists[0]} == {"publish"}
    with pytest.raises(ConfigError, match="chooses the draw"):
        run("plan", works, "--out", file)
    (tmp_path / "other.hold.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"other\.hold\.txt: is there already"):
        run("plan", works, "--out", tmp_path / "other.json")
    assert not (tmp_path / "other.json").exists()
    text = shown("plan", works, "--out", tmp_path / "third.json")
    assert "Left out: broken.jpg: unknown_format" in text
    assert "2 units fewer" in text


def test_a_series_in_a_folder_is_one_unit_and_files_beside_it_are_their_own(works: Path) -> None:
    for number in range(20, 24):
        picture(works / f"{number}.png", number)
    plan = draw_plan(works, "folder", None, 0.5, LOSS, err).plan
    assert len(plan.assignment) == 7 + 4 + 1
    assert {work.unit for work in plan.works if work.path.startswith("series/")} == {"series/"}
    with pytest.raises(ConfigError, match="expected at least 10"):
        draw_plan(works / "series", "file", None, 0.5, LOSS, err)
    with pytest.raises(ConfigError, match=r"with 1 of 12 units published p is 0\.083 or more"):
        draw_plan(works, "folder", None, 0.08, LOSS, err)


def test_each_unit_is_drawn_as_often_and_no_two_plans_are_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        picture(tmp_path / f"{number}.png", number)
    read = canary._read(tmp_path, None, err)
    monkeypatch.setattr(canary, "_read", lambda *_: read)
    plans = [draw_plan(tmp_path, "file", None, 0.5, LOSS, err).plan for _ in range(40)]
    assert len({plan.nonce for plan in plans}) == 40
    assert len({tuple(plan.assignment.values()) for plan in plans}) > 20
    for unit in plans[0].assignment:
        drawn = sum(plan.assignment[unit] == "publish" for plan in plans)
        assert binomtest(drawn, 40, 0.5).pvalue > 1e-5


def test_what_is_declared_must_exist() -> None:
    assert declared([], ["calibrated.loss.t=100", "pia", "pia"], 999, 0.01).needed() == ["loss", "pia"]
    assert declared(["loss", "loss"], [], 999, 0.05).attacks == ["loss"]
    with pytest.raises(ConfigError, match="--attack: no attack 'los'; did you mean `loss`"):
        declared(["los"], [], 999, 0.05)
    with pytest.raises(ConfigError, match="--signal: no attack 'lose'"):
        declared([], ["lose.t=3"], 999, 0.05)
    with pytest.raises(ConfigError, match="`redraws`"):
        declared([], [], 3, 0.05)
    with pytest.raises(ConfigError, match="--attack and --signal"):
        declared(["loss"], ["loss"], 999, 0.05)
    with pytest.raises(ConfigError, match="random is a control"):
        declared(["random"], [], 999, 0.05)
    with pytest.raises(ConfigError, match=r"--signal loss\.t=101: attack loss has loss, loss\.t=100"):
        declared([], ["loss.t=101"], 999, 0.05)
    assert declared([], ["loss.t=101"], 999, 0.05, ["attacks.loss.timesteps=[101]"]).parameters["loss"]["timesteps"] == [101]
    with pytest.raises(ConfigError, match=r"--redraws 99: p will be 0\.01 or more"):
        declared(["loss"], [], 99, 0.001)


def test_parameters_and_options_are_fixed_as_a_job_has_them_and_what_changes_no_score_is_refused() -> None:
    test = declared(["loss"], [], 999, 0.05, ["attacks.loss.draws=1", "replica.resolution_px=64", "reference.model=m"])
    assert set(test.parameters["loss"]) == set(ATTACKS.get("loss").model_fields)
    assert test.options == {"replica.resolution_px": 64, "reference.model": "m"}
    # What a service may have to choose itself is left open, unless somebody set it.
    assert set(declared(["generation"], [], 999, 0.05).parameters["generation"]) == {"images", "metric"}
    steps = declared(["generation"], [], 999, 0.05, ["attacks.generation.steps=20"])
    assert steps.parameters["generation"]["steps"] == 20
    for change, problem in {
        "pool.replicas=2": "pool.replicas: changes no score",
        "manifest=m.yaml": "manifest: changes no score",
        "replica.text=stage": r"replica\.text: changes no score",
        "attacks.pia.draws=2": r"attacks\.pia: the plan declares no such attack",
        "replica.resolutionpx=3": r"unknown key `replica\.resolutionpx`",
        "replica=3": "expected fields",
        "attacks=3": "expected parameters by attack",
    }.items():
        with pytest.raises(ConfigError, match=problem):
            declared(["loss"], [], 999, 0.05, [change])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"attacks": {"loss": {"timesteps": [100, 300], "draws": 2}}}, "attacks.loss.draws is 2 and was 1"),
        ({"attacks": {"pia": {}}}, "the plan declares attack loss"),
        ({"replica": {"model": "m", "resolution_px": 64}}, "replica.resolution_px is 64 and was 512"),
        ({"reference": "base"}, 'reference is "base" and was null'),
        ({}, None),
    ],
)
def test_a_job_that_asks_otherwise_than_declared_is_refused_by_name(change: dict[str, Any], problem: str | None) -> None:
    test = declared(["loss"], [], 999, 0.05, [*FEW, "replica.resolution_px=512", "reference=null"])
    content = {"manifest": "m", "run": "r", "replica": {"model": "m", "adapters": [{"path": "a"}]}}
    content |= {"attacks": {"loss": {"timesteps": [100, 300], "draws": 1}}, **change}
    job = parse_job(content, "job").model_dump(mode="json")
    if problem is None:
        require_declared(test, job, "job")
        return
    with pytest.raises(ConfigError, match=re.escape(problem)):
        require_declared(test, job, "job")


def test_a_plan_of_the_first_format_is_read_to_the_byte_and_fixes_names_alone(tmp_path: Path) -> None:
    plan = by_hand({f"{number:02d}": (bytes([number]), "", number < 6) for number in range(12)})
    first = plan.model_copy(update={"format": 1, "test": Declared(attacks=["loss"])})
    content = json.loads(first.content())
    assert set(content["test"]) == {"statistic", "attacks", "signals", "redraws", "alpha"}
    (tmp_path / "plan.json").write_bytes(first.content())
    read = read_plan(tmp_path / "plan.json")
    assert (read, read.commitment()) == (first, hashlib.sha256(first.content()).hexdigest())
    require_declared(read.test, {"attacks": {"loss": {"draws": 3}}}, "job")
    (tmp_path / "plan.json").write_bytes(
        plan.model_copy(update={"format": 1}).content().replace(b'"redraws"', b'"options":{},"redraws"')
    )
    with pytest.raises(ConfigError, match="written anew"):
        read_plan(tmp_path / "plan.json")


def by_hand(samples: dict[str, tuple[bytes, str, bool]], test: Declared = LOSS) -> Plan:
    """A plan whose draw came out as the labels are: key to image, caption and whether it was published."""
    works = [
        PlannedWork(path=f"{key}.jpg", sha256=hashlib.sha256(image).hexdigest(), unit=f"{key}.jpg", caption=caption)
        for key, (image, caption, _) in sorted(samples.items())
    ]
    return Plan(
        planned="2026-01-01T00:00:00+00:00",
        raymia="0",
        nonce="ab" * 32,
        unit="file",
        published_units=sum(published for *_, published in samples.values()),
        works=works,
        assignment={f"{key}.jpg": "publish" if published else "hold back" for key, (*_, published) in samples.items()},
        left_out={},
        test=test,
    )


def test_any_change_of_a_plan_changes_its_hash_or_is_refused(tmp_path: Path) -> None:
    plan = by_hand({f"{number:02d}": (bytes([number]), "", number < 6) for number in range(12)})
    write_plan(plan, tmp_path / "plan.json")
    content = (tmp_path / "plan.json").read_bytes()
    assert read_plan(tmp_path / "plan.json") == plan
    read = []
    for place in np.random.default_rng(0).integers(0, len(content), 150):
        changed = bytearray(content)
        changed[place] = changed[place] % 126 + 1
        (tmp_path / "changed.json").write_bytes(changed)
        with suppress(ConfigError):
            read.append(read_plan(tmp_path / "changed.json").commitment())
    assert 0 < len(read) < 150, "some changes make another plan, and others none"
    assert plan.commitment() not in read
    twin = plan.works[0].model_copy(update={"path": "z", "unit": "z"})
    for problem, change in {
        "published_units: 6 units are assigned": {"published_units": 7},
        "the same file is in another unit": {"works": [*plan.works, twin], "assignment": {**plan.assignment, "z": "publish"}},
        "expected each path once": {"works": plan.works[::-1]},
        "expected a path below the folder": {"works": [plan.works[0].model_copy(update={"path": "../x"})]},
        "its units are not those of the works": {"works": plan.works[1:]},
    }.items():
        (tmp_path / "changed.json").write_bytes(plan.model_copy(update=change).content())
        with pytest.raises(ConfigError, match=problem):
            read_plan(tmp_path / "changed.json")
    (tmp_path / "changed.json").write_text(json.dumps(json.loads(content), indent=1))
    with pytest.raises(ConfigError, match="written anew by another program"):
        read_plan(tmp_path / "changed.json")


def write_works(manifest_name: str, folder: Path, per_side: int, test: Declared) -> None:
    """Works of a set with labels, and a plan as if its members had been drawn to be published."""
    (folder / "works").mkdir(parents=True)
    manifest, place = load_manifest(manifest_name)
    samples: dict[str, tuple[bytes, str, bool]] = {}
    left = {True: per_side, False: per_side}
    for reader in shard_readers(manifest, place):
        for item in reader.read():
            member = bool(reader.shard.member)
            if isinstance(item, RawSample) and item.image is not None and left[member]:
                left[member] -= 1
                samples[item.key] = (item.image, item.caption, member)
                (folder / "works" / f"{item.key}.jpg").write_bytes(item.image)
    write_plan(by_hand(samples, test), folder / "plan.json")


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test bed's members as if they had been drawn to be published, and as many non-members; tested by its loss."""
    folder = tmp_path_factory.mktemp("learnt")
    write_works("testbed", folder, PER_SIDE, LOSS)
    with here():
        found = run(*question(folder, folder / "out"), "--commitment", read_plan(folder / "plan.json").commitment())
    (folder / "printed.json").write_text(json.dumps(found))
    return folder


def question(folder: Path, out: Path) -> tuple[str | Path, ...]:
    return ("test", folder / "plan.json", "--works", folder / "works", "--model", "testbed", "--out", out)


def test_works_that_a_model_was_trained_on_are_found(learnt: Path) -> None:
    found = json.loads((learnt / "printed.json").read_text())
    assert found == json.loads((learnt / "out" / "canary.json").read_text())
    assert (found["works"], found["scored"], found["published_works"]) == (2 * PER_SIDE, 2 * PER_SIDE, PER_SIDE)
    assert (found["subject"], found["commitment_held"], found["bytes_checked"]) == ("testbed", True, True)
    assert [signal["name"] for signal in found["test"]["signals"]] == ["loss"]
    assert found["test"]["p"] < 0.01
    assert found["significant"]
    manifest, place = load_manifest(str(learnt / "out" / "data" / "manifest.yaml"))
    (reader,) = shard_readers(manifest, place)
    keys = [item.key for item in reader.read() if isinstance(item, RawSample)]
    assert (reader.shard.member, keys) == (None, sorted(keys)), "nothing that is scanned tells the halves apart"


def test_a_finished_scan_is_tested_without_the_works_and_says_the_same(learnt: Path, tmp_path: Path) -> None:
    first = json.loads((learnt / "printed.json").read_text())
    text = shown("test", learnt / "plan.json", "--run", learnt / "out" / "run", "--out", tmp_path)
    again = json.loads((tmp_path / "canary.json").read_text())
    assert again["test"] == first["test"]
    assert f"At most {chances(first['test']['p'])} such tests would come out so by chance" in text
    assert "exact" in text


@pytest.fixture
def copied(learnt: Path, tmp_path: Path) -> Iterator[Path]:
    shutil.copytree(learnt, tmp_path / "copied")
    with here():
        yield tmp_path / "copied"


def test_a_changed_work_is_named_before_anything_is_packed(copied: Path, tmp_path: Path) -> None:
    path = read_plan(copied / "plan.json").works[3].path
    with (copied / "works" / path).open("ab") as stream:
        stream.write(b" ")
    with pytest.raises(ConfigError, match=f"{path}: not the file that was planned"):
        run(*question(copied, tmp_path / "out"))
    assert not (tmp_path / "out" / "data").exists()


def test_works_that_are_gone_count_at_their_worst(copied: Path, tmp_path: Path) -> None:
    plan = read_plan(copied / "plan.json")
    gone = sorted(work.path for work in (plan.side("publish")[0], plan.side("hold back")[0]))
    for path in gone:
        (copied / "works" / path).unlink()
    first = json.loads((copied / "printed.json").read_text())
    found = run(*question(copied, tmp_path / "out"))
    assert (found["missing"], found["scored"]) == (gone, 2 * PER_SIDE - 2)
    assert found["test"]["p"] > first["test"]["p"]
    assert json.loads((tmp_path / "out" / "canary.json").read_text()) == found
    with err.capture() as said:
        print_result(err, CanaryResult.model_validate(found))
    assert f"Missing: 2 works, such as {gone[0]}" in " ".join(said.get().split())


def test_works_that_cannot_be_scored_are_left_out_of_their_half_and_counted(works: Path, tmp_path: Path) -> None:
    for number in (20, 21):
        picture(works / f"{number}.png", number)
        Image.open(works / f"{number}.png").resize((300, 300)).save(works / f"{number}.png")
    plan = tmp_path / "plan.json"
    fixed = ("--set", "attacks.loss.timesteps=[100]", "--set", "max_pixels=50000")
    run("plan", works, "--out", plan, "--signal", "loss.t=100", *fixed, "--redraws", "999")
    # What a job says, and the attacks of the plan, which it does not name.
    job = tmp_path / "job.yaml"
    job.write_text("replica: {model: testbed-tiny, resolution_px: 64}\nmax_quarantined_fraction: 1\nmanifest: m.yaml\n")
    asked = ("test", plan, "--works", works, "--job", job, "--out", tmp_path / "out")
    with here():
        with pytest.raises(ConfigError, match=r"max_pixels is 99 and was 50000"):
            run(*asked, "--set", "max_pixels=99")
        with pytest.raises(ConfigError, match="--adapter: the job"):
            run(*asked, "--adapter", "testbed-lora")
        found = run(*asked)
    assert (found["works"], found["scored"], found["unscored"]) == (16, 14, {"too_many_pixels": 2})
    assert found["test"]["published"] + found["test"]["held_back"] == 12 == found["units"] - 2
    assert [signal["name"] for signal in found["test"]["signals"]] == ["loss.t=100"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("--commitment", "ab" * 32), "--commitment: is of another plan"),
        (("--budget", "5"), "--budget: the plan declares what is tested"),
        (("--run", "somewhere"), "--run is of a scan that is done"),
        (("--works", "nowhere"), "--works nowhere: no such folder"),
        (("--set", "attacks={pia: {}}"), "the plan declares attack loss, which the scan does not have"),
        (("--set", "attacks.loss.draws=2"), "the question: is not what the plan declared .*attacks.loss.draws is 2 and was 1"),
        (("--set", "manifest=testbed"), "--set manifest, --set run: the planned works are scanned"),
        (("--set", "caption_source=shuffled"), "caption_source: shuffled tells the model other captions"),
    ],
)
def test_what_cannot_be_is_said(learnt: Path, tmp_path: Path, change: tuple[str, str], problem: str) -> None:
    with here(), pytest.raises(ConfigError, match=problem):
        run(*question(learnt, tmp_path / "out"), *change)


def test_a_model_tuned_on_the_published_half_is_found_by_what_its_base_does_not_know(tmp_path: Path) -> None:
    test = declared(
        [], ["calibrated.loss"], 999, 0.05, ["attacks.loss.timesteps=[300]", "attacks.loss.draws=2", "reference=base"]
    )
    write_works("testbed-lora", tmp_path, 12, test)
    asked = ("test", tmp_path / "plan.json", "--works", tmp_path / "works", "--model", "testbed", "--out", tmp_path / "out")
    with here():
        with pytest.raises(ConfigError, match="reference: base is the model without its adapters"):
            run(*asked)
        found = run(*asked, "--adapter", "testbed-lora")
    assert (found["subject"], found["scored"], found["undeclared"]) == ("testbed with testbed-lora", 24, ["loss"])
    assert [signal["name"] for signal in found["test"]["signals"]] == ["calibrated.loss"]
    assert found["test"]["p"] <= 0.05


def test_a_service_that_stops_half_way_is_asked_for_the_rest_alone(
    works: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_briefly(monkeypatch)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-test")
    fixed = ("--set", "attacks.generation.metric=ssim", "--set", "attacks.generation.images=1")
    run("plan", works, "--out", tmp_path / "plan.json", "--attack", "generation", *fixed)
    with serving() as server, here():
        fields = {"url": server.url, "extensions": "muse", "resolution_px": 64, "in_flight": 1}
        options = [word for name, value in fields.items() for word in ("--set", f"replica.{name}={value}")]
        asked = ("test", tmp_path / "plan.json", "--works", works, "--service", "openai", *options)
        whole = run(*asked, "--out", tmp_path / "whole")
        each = len(server.asked)
        assert each == 14 + 2, "each work once, and the first question twice"
        server.rule = lambda number, body: "image" if number < each + 9 else "401:revoked"
        small = ("--set", "pool.batch_size=4", "--set", "unit_size=4", "--out", tmp_path / "out")
        with pytest.raises(RaymiaError, match="the key is not accepted"):
            run(*asked, *small)
        answered = len(server.asked)
        server.rule = lambda number, body: "image"
        found = run(*asked, *small)
    assert len(server.asked) - answered == each - 9
    assert (found["test"], found["scored"], found["subject"]) == (whole["test"], 14, "service openai")


def test_a_run_of_other_works_or_asked_otherwise_is_refused(learnt: Path, tmp_path: Path) -> None:
    plan = read_plan(learnt / "plan.json")
    other = declared(["loss"], [], 99_999, 0.05, [*FEW, "seed=7"])
    (tmp_path / "seed.json").write_bytes(plan.model_copy(update={"test": other}).content())
    with pytest.raises(ConfigError, match=r"run: is not what the plan declared .*seed is 0 and was 7"):
        run("test", tmp_path / "seed.json", "--run", learnt / "out" / "run", "--out", tmp_path / "o")
    titled = plan.works[0].model_copy(update={"caption": "titled later"})
    (tmp_path / "caption.json").write_bytes(plan.model_copy(update={"works": [titled, *plan.works[1:]]}).content())
    with pytest.raises(ConfigError, match="a caption that was changed after the draw"):
        run("test", tmp_path / "caption.json", "--run", learnt / "out" / "run", "--out", tmp_path / "o")
    other = plan.works[0].model_copy(update={"path": "another.jpg", "unit": "another.jpg"})
    assignment = {unit: side for unit, side in plan.assignment.items() if unit != plan.works[0].unit}
    assignment["another.jpg"] = plan.assignment[plan.works[0].unit]
    works = sorted([other, *plan.works[1:]], key=lambda work: work.path)
    (tmp_path / "more.json").write_bytes(plan.model_copy(update={"works": works, "assignment": assignment}).content())
    with pytest.raises(ConfigError, match=r"another\.jpg is planned, and neither scored nor quarantined there"):
        run("test", tmp_path / "more.json", "--run", learnt / "out" / "run", "--out", tmp_path / "o")


@pytest.mark.parametrize(
    ("p", "words"),
    [(1 / 252, "4 in 1,000"), (1e-5, "1 in 100,000"), (0.0234, "24 in 1,000"), (0.35, "35 in 100"), (1.0, "1 in 1")],
)
def test_chances_are_rounded_up_to_two_digits(p: float, words: str) -> None:
    assert chances(p) == words
