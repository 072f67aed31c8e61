"""run.json as types: runs of earlier formats are read, resumed ones must be of this format, and nothing is half understood."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raymia.errors import ConfigError, RaymiaError
from raymia.evaluation.metrics import evaluate_run
from raymia.run.columns import BLIND, BY_NAME, COLUMNS, KNOWN, QUARANTINE_SCHEMA, fields, named, scored
from raymia.run.ledger import Ledger
from raymia.run.record import FORMAT, Access, Evaluations, ScanRecord
from raymia.run.status import read_status
from raymia.scan.plan import make_plan, require_same
from tests.conftest import good_members
from tests.replica.damaged import change, copied
from tests.run.records import scan_record
from tests.scan.test_pipeline import make_job

FIRST_FORMAT: dict[str, Any] = {
    "job": {"replica": {"model": "CompVis/stable-diffusion-v1-4", "unet_batch": 8}, "seed": 0, "caption_source": "own"},
    "manifest": {
        "name": "set",
        "splits": [
            {"name": "in", "member": True, "shards": ["a.tar"], "samples": None, "sha256": None, "source": None},
            {"name": "out", "member": False, "shards": ["b.tar"], "samples": None, "sha256": None, "source": None},
        ],
    },
    "shards": [{"split": "in", "name": "a", "url": "a.tar", "member": True}],
    "selection": None,
    "model": {"fingerprint": "f"},
    "dtype": "bfloat16",
    "free": {},
    "labels_hold": True,
    "signals": [{"name": "loss", "attack": "loss", "access": "grey", "primary": True}],
    "expected": None,
    "versions": {"raymia": "0.1.0"},
    "started": "2026-01-01T00:00:00+00:00",
    "attempted": "2026-01-01T00:00:00+00:00",
    "attempts": 2,
    "evaluations": {"unet_forwards": 50, "encodes": 2},
    "stages": {"model": 1.5},
    "seconds": 2.0,
    "bottleneck": {"stage": "model", "why": "busy"},
    "finished": "2026-01-01T00:01:00+00:00",
    "counts": {"read": 24, "scored": 24, "quarantined": 0, "by_reason": {}, "flagged": {}, "expected": None},
}
"""As version 0.1.0 wrote it."""


@pytest.fixture
def old_run(tmp_path: Path) -> Ledger:
    ledger = Ledger(str(tmp_path / "old"))
    ledger.write_text("run.json", json.dumps(FIRST_FORMAT))
    for split, raised in (("in", 3.0), ("out", 0.0)):
        rows = {"key": list("abcdefghijkl"), "split": [split] * 12, "shard": ["a"] * 12, "unit": [0] * 12, "index": range(12)}
        rows |= {"member": [split == "in"] * 12, "caption": ["x"] * 12, "flags": [""] * 12}
        rows |= {"loss": [raised + (i * 5) % 12 for i in range(12)]}
        ledger.commit_unit(split, "a", 0, pa.table(rows), QUARANTINE_SCHEMA.empty_table())
    return ledger


def test_a_run_of_the_first_format_is_read_with_its_evaluations_under_their_present_names(old_run: Ledger) -> None:
    record = old_run.require_scan()
    assert record.format == 1
    assert record.evaluations == Evaluations(forwards=50, encodes=2)
    assert record.signals[0].cost is None
    assert record.job.subject == "CompVis/stable-diffusion-v1-4"
    assert record.job.model_dump()["replica"]["unet_batch"] == 8
    status = read_status(old_run.run)
    assert (status.state, status.attempts, status.samples, status.bottleneck) == ("finished", 2, 24, "model")
    evaluation = evaluate_run(old_run)
    assert evaluation.title == "set against CompVis/stable-diffusion-v1-4"
    assert evaluation.metrics.signals["loss"].auc is not None


def test_a_resume_across_formats_is_refused_in_one_line(
    old_run: Ledger, tmp_path: Path, tiny: Path, write_tar: Callable[..., Path]
) -> None:
    write_tar("m0.tar", good_members(1))
    write_tar("n0.tar", good_members(1, start=9))
    plan = make_plan(make_job(tmp_path, tiny, "old"))
    with pytest.raises(ConfigError, match="format 1, where this version of raymia writes format 2") as caught:
        require_same(old_run, plan)
    assert "\n" not in str(caught.value)


def test_a_run_from_before_a_field_existed_is_resumed_where_the_field_has_its_default(
    tmp_path: Path, tiny: Path, write_tar: Callable[..., Path]
) -> None:
    write_tar("m0.tar", good_members(1))
    write_tar("n0.tar", good_members(1, start=9))
    plan = make_plan(make_job(tmp_path, tiny, "before"))
    ledger = Ledger(str(tmp_path / "before"))
    record = scan_record(**plan.identity, signals=plan.signals).model_dump(mode="json")
    for place, name in (
        (record["job"], "access"),
        (record["job"], "caption_source"),
        (record["job"]["replica"], "timesteps"),
        (record["job"], "limits"),
    ):
        del place[name]
    del record["job"]["attacks"]["loss"]["noise"]
    ledger.write_text("run.json", json.dumps(record))
    assert require_same(ledger, plan) is not None
    other = make_plan(make_job(tmp_path, tiny, "before", access="grey"))
    with pytest.raises(ConfigError, match=r"job\.access: 'white' -> 'grey'"):
        require_same(ledger, other)
    record["job"]["was_dropped"] = 3
    ledger.write_text("run.json", json.dumps(record))
    with pytest.raises(ConfigError, match=r"job\.was_dropped: 3 -> None"):
        require_same(ledger, plan)


def test_a_run_whose_attacks_had_other_signals_in_an_earlier_version_is_not_gone_on_with(
    tmp_path: Path, tiny: Path, write_tar: Callable[..., Path]
) -> None:
    write_tar("m0.tar", good_members(1))
    write_tar("n0.tar", good_members(1, start=9))
    plan, ledger = make_plan(make_job(tmp_path, tiny, "before")), Ledger(str(tmp_path / "before"))
    ledger.write_run(scan_record(**plan.identity, signals=plan.signals))
    assert require_same(ledger, plan) is not None
    fewer = [signal for signal in plan.signals if signal.name != "loss.lowpass"]
    ledger.write_run(scan_record(**plan.identity, signals=fewer))
    with pytest.raises(ConfigError, match=r"other signals \(loss\.lowpass\): finish the run with that version"):
        require_same(ledger, plan)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_run_whose_means_were_of_errors_of_the_noise_is_not_gone_on_with_in_those_of_the_velocity(
    tmp_path: Path, tiny: Path, write_tar: Callable[..., Path], prediction_type: str
) -> None:
    write_tar("m0.tar", good_members(1))
    write_tar("n0.tar", good_members(1, start=9))
    model = copied(tiny, tmp_path / "model")
    change(model / "scheduler" / "scheduler_config.json", prediction_type=prediction_type)
    plan, ledger = make_plan(make_job(tmp_path, model, "before")), Ledger(str(tmp_path / "before"))
    record = scan_record(**plan.identity, signals=plan.signals).model_dump(mode="json")
    assert record["model"].pop("errors") == {"epsilon": "noise", "v_prediction": "velocity"}[prediction_type]
    ledger.write_text("run.json", json.dumps(record))
    if prediction_type == "epsilon":
        assert require_same(ledger, plan) is not None
    else:
        with pytest.raises(ConfigError, match=r"model\.errors: 'noise' -> 'velocity'"):
            require_same(ledger, plan)


def test_a_later_format_a_damaged_file_and_a_missing_field_are_named(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    for content, message in (
        (json.dumps({**FIRST_FORMAT, "format": FORMAT + 1}), "format 3, where this version of raymia reads formats up to 2"),
        ("{", r"run\.json: cannot be read: not JSON: Expecting"),
        (json.dumps({**FIRST_FORMAT, "dtype": None}), "`dtype`"),
        ("[]", "cannot be read"),
    ):
        ledger.write_text("run.json", content)
        with pytest.raises(RaymiaError, match=message):
            ledger.read_run()


def test_what_is_written_is_read_again_with_fields_that_only_the_maker_knows(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    record = scan_record(evaluations=Evaluations(forwards=3), free={"pool": {"batch_size": 4}})
    ledger.write_run(record)
    again = ledger.require_scan()
    assert isinstance(again, ScanRecord)
    assert again == record
    assert json.loads((tmp_path / "run.json").read_text())["format"] == FORMAT


def test_evaluations_add_and_subtract_by_kind() -> None:
    one, other = Evaluations(forwards=5, encodes=1), Evaluations(forwards=2, queries=3)
    assert one + other == Evaluations(forwards=7, encodes=1, queries=3)
    assert (one + other) - other == one


def test_an_attacker_with_more_access_may_do_what_one_with_less_may() -> None:
    assert Access.WHITE.allows(Access.GREY)
    assert Access.BLACK.allows(Access.CONTROL)
    assert not Access.BLACK.allows(Access.GREY)


def test_every_column_has_one_stage_and_schemas_are_made_of_them() -> None:
    assert len(BY_NAME) == len(COLUMNS)
    staged = [
        field.name for stage in ("read", "decode", "score", "embed", "fault", "commit", "evaluate") for field in fields(stage)
    ]
    assert sorted(staged) == sorted(BY_NAME)
    assert [field.name for field in named("split", "key")] == ["split", "key"]
    row = scored(["loss"])
    assert [row.field(i).name for i in range(row.num_fields)] == [*(field.name for field in KNOWN), "loss", "clip_embedding"]
    assert {"caption", "width", "clip_embedding"} < BLIND
    assert not BLIND & {"key", "member", "image_sha256", "split", "shard"}
