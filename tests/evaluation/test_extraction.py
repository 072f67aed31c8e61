"""What was extracted, against every pair counted one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from raymia.errors import RaymiaError
from raymia.evaluation import extraction
from raymia.evaluation.extraction import Captions, Extraction, floor_of, make_extraction
from raymia.run.columns import QUARANTINE_SCHEMA
from raymia.run.files import DamagedRunError
from raymia.run.ledger import Ledger
from raymia.run.record import JobRecord, ModelRecord, SignalRecord, now_text
from raymia.run.shown import SCHEMA, read_images
from tests.run.records import scan_record

WIDTH, DRAWS, WORKS = 24, 4, 30
CAPTIONS = Captions(
    read=WORKS, unreadable={}, without_caption=0, passed_over=0, chosen=WORKS, drawn=0, answered=0, unanswered={}
)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def made(seed: int = 0, copied: int = 3) -> pd.DataFrame:
    """Works, of which the first are copied by their captions' last image."""
    random = np.random.default_rng(seed)
    works, answers = unit(random.normal(size=(WORKS, WIDTH))), unit(random.normal(size=(WORKS, DRAWS, WIDTH)))
    answers[:copied, -1] = unit(works[:copied] + 0.05 * random.normal(size=(copied, WIDTH)))
    names = [f"k{number:02d}" for number in range(WORKS)]
    rows = pd.DataFrame({"key": names, "caption": [f"work {name}" for name in names], "image_sha256": names})
    return rows.assign(work=list(works), answers=list(answers), picture=range(WORKS))


def write_run(folder: Path, rows: pd.DataFrame, copies: str = "sscd:f", **item: Any) -> str:
    """A finished run as a scan leaves it."""
    ledger = Ledger(str(folder))
    signals = [SignalRecord(name="extraction", attack="extraction", access="black", primary=True)]
    attacks = {"extraction": {"near": 0.75, "draws": DRAWS}}
    job = JobRecord.model_validate({"replica": {"model": "a-model"}, "copies": copies, "attacks": attacks})
    model = ModelRecord(fingerprint="a", copies="sscd abc")
    ledger.write_run(scan_record(job=job, model=model, signals=signals, finished=now_text()))
    alike = np.array([answers @ work for work, answers in zip(rows["work"], rows["answers"], strict=True)])
    scores = rows[["key", "caption", "image_sha256"]].assign(split="in", shard="a", unit=0, member=True, flags="")
    scores = scores.assign(index=range(len(rows)), extraction=alike.max(1))
    scores = scores.assign(**{"extraction.mean": alike.mean(1), "extraction.cluster": 1.0})
    shown = [
        {
            "split": "in",
            "shard": "a",
            "unit": 0,
            "key": row["key"],
            "attack": "extraction",
            "seed": 7,
            "steps": None,
            "guidance": 7.5,
            "height": 64,
            "width": 64,
            "draw": int(own.argmax()),
            "similarity": own.max(),
            "within_work": "whole",
            "within_work_similarity": 0.5,
            "within_image": "left",
            "within_image_similarity": 0.6,
            "work": row["work"],
            "answers": list(row["answers"]),
            "image": b"png",
            **item,
        }
        for row, own in zip(rows.to_dict("records"), alike, strict=True)
    ]
    tables = pa.Table.from_pandas(scores, preserve_index=False), QUARANTINE_SCHEMA.empty_table()
    ledger.commit_unit("in", "a", 0, *tables, pa.Table.from_pylist(shown, SCHEMA))
    return str(folder)


def asked(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[["key"]].assign(split="in", shard="a", role="chosen", screened=1.0, picture=range(len(rows)))


def found_in(folder: Path, rows: pd.DataFrame, **changes: Any) -> Extraction:
    return make_extraction(write_run(folder, rows, **changes), asked(rows), CAPTIONS)


def test_the_floor_and_p_are_those_of_all_pairs_counted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "AT_ONCE", 7 * WORKS * DRAWS)
    rows = made()
    rows.loc[5, "caption"] = " WORK  k06"
    rows.loc[9, "image_sha256"] = "k10"
    rows.loc[20, "picture"] = 21
    alone = {(5, 6), (6, 5), (9, 10), (10, 9), (20, 21), (21, 20)}
    pairs = {
        (i, j): [float(image @ rows["work"][i]) for image in rows["answers"][j]]
        for i in range(WORKS)
        for j in range(WORKS)
        if i != j and (i, j) not in alone
    }
    own, others, floor = floor_of(rows)
    flat = np.sort(np.concatenate(list(pairs.values())))
    assert (floor.captions, floor.pairs, floor.left_out) == (WORKS - 1, len(flat), len(alone) * DRAWS)
    assert floor.highest == pytest.approx(flat[-1])
    assert floor.quantile == pytest.approx(float(np.quantile(flat, 0.999, method="inverted_cdf")))
    for i in range(WORKS):
        by_caption: dict[int, float] = {}
        for (one, j), values in pairs.items():
            if one == i:
                text = 5 if j == 6 else j  # which say the same
                by_caption[text] = max(*values, by_caption.get(text, -1.0))
        assert sorted(others[i]) == pytest.approx(sorted(by_caption.values()))
        assert own[i] == pytest.approx(max(float(image @ rows["work"][i]) for image in rows["answers"][i]))


def test_works_that_are_given_back_are_extracted_and_no_others(tmp_path: Path) -> None:
    found = found_in(tmp_path, made())
    assert [work.key for work in found.works[:3] if work.extracted] == sorted(
        ["k00", "k01", "k02"], key=lambda key: [work.key for work in found.works].index(key)
    )
    assert (found.extracted, found.captions.answered, found.thresholds) == (3, WORKS, [0.5, 0.6, 0.75])
    assert [work.above for work in found.works[:3]] == [[0.5, 0.6, 0.75]] * 3
    assert all(work.p == pytest.approx(1 / WORKS) for work in found.works[:3])
    assert not any(work.extracted for work in found.works[3:])
    first = found.works[0]
    assert (first.draw, first.seed, first.steps, first.guidance, first.match.of_image) == (DRAWS - 1, 7, None, 7.5, "left")
    assert f"3 of {WORKS} works" in found.statements[0]
    assert f"{WORKS * (WORKS - 1) * DRAWS:,} pairs" in found.statements[1]


def test_without_thresholds_the_floor_alone_counts_and_that_is_said(tmp_path: Path) -> None:
    found = found_in(tmp_path, made(), copies="clip")
    assert (found.detector, found.thresholds, found.extracted) == ("clip", [], 3)
    assert any("no threshold is published" in statement for statement in found.statements)


def test_p_is_uniform_where_nothing_is_memorised() -> None:
    p = []
    for seed in range(20):
        own, others, _ = floor_of(made(seed + 1, copied=0))
        p += [(1 + (other >= one).sum()) / (1 + len(other)) for one, other in zip(own, others, strict=True)]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.04)
    assert np.mean(p) == pytest.approx(0.5, abs=0.05)


def test_a_single_caption_has_no_floor_and_no_verdict(tmp_path: Path) -> None:
    found = found_in(tmp_path, made().head(1))
    assert (found.works[0].extracted, found.works[0].p, found.floor.highest, found.extracted) == (None, None, None, 0)
    assert "cannot be said" in found.statements[0]


def test_few_captions_decide_nothing_without_a_threshold_and_something_with_one(tmp_path: Path) -> None:
    few = made().head(8)
    by_clip = found_in(tmp_path / "clip", few, copies="clip")
    assert {work.extracted for work in by_clip.works} == {None}
    assert by_clip.extracted == 0
    assert "cannot be said: 8 captions" in by_clip.statements[0]
    assert found_in(tmp_path / "sscd", few).extracted == 3


def test_captions_that_say_the_same_count_as_one_and_cannot_make_a_floor_that_decides(tmp_path: Path) -> None:
    rows = made()
    rows.loc[12:, "caption"] = "untitled"
    by_clip = found_in(tmp_path / "clip", rows, copies="clip")
    assert {work.extracted for work in by_clip.works} == {None}
    assert "cannot be said: 13 captions that differ" in by_clip.statements[0]
    assert max(work.p for work in by_clip.works if work.p is not None) <= 1.0
    rows = made()
    rows.loc[25:, "caption"] = "untitled"
    some = found_in(tmp_path / "some", rows, copies="clip")
    assert (some.extracted, some.floor.captions, some.floor.one_in) == (3, 26, 26)
    assert "in at most 1 of 26 such extractions" in some.statements[2]


def test_a_work_that_comes_back_under_a_twins_caption_is_no_floor(tmp_path: Path) -> None:
    rows = made()
    random = np.random.default_rng(1)
    twin = unit(rows["work"][0] + 0.02 * random.normal(size=WIDTH))
    rows.at[7, "work"] = twin
    rows.at[7, "answers"] = np.stack([*rows["answers"][7][:-1], unit(rows["work"][0] + 0.01 * random.normal(size=WIDTH))])
    apart = make_extraction(write_run(tmp_path / "a", rows), asked(rows), CAPTIONS)
    assert apart.extracted < 4
    assert apart.floor.highest is not None
    assert apart.floor.highest > 0.9
    together = make_extraction(
        write_run(tmp_path / "b", rows), asked(rows).assign(picture=[*range(7), 0, *range(8, WORKS)]), CAPTIONS
    )
    assert together.extracted == 4
    assert together.floor.left_out == 2 * DRAWS


def test_the_closest_of_all_pairs_is_a_works_own_as_often_as_is_said_where_nothing_is_memorised() -> None:
    few, above = 6, 0
    for seed in range(600):
        own, _, floor = floor_of(made(seed, copied=0).head(few))
        above += own.max() > (floor.highest or 1.0)
    assert above / 600 == pytest.approx(1 / few, abs=0.05)


def test_what_was_changed_or_lost_since_the_scan_is_an_error_and_no_figure(tmp_path: Path) -> None:
    rows = made()
    run = write_run(tmp_path, rows)
    file = tmp_path / "exhibits" / "in" / "a-000000.parquet"
    whole = file.read_bytes()
    file.unlink()
    with pytest.raises(DamagedRunError, match=f"nothing is shown of {WORKS} of {WORKS} scored samples, such as in/a/k00"):
        make_extraction(run, asked(rows), CAPTIONS)
    file.write_bytes(whole[:-9])
    with pytest.raises(DamagedRunError, match=r"exhibits/in/a-000000\.parquet: not as raymia writes"):
        make_extraction(run, asked(rows), CAPTIONS)
    other = rows.assign(work=list(np.roll(np.stack(list(rows["work"])), 1, 0)))
    write_run(tmp_path / "other", other)
    file.write_bytes((tmp_path / "other" / "exhibits" / "in" / "a-000000.parquet").read_bytes())
    with pytest.raises(DamagedRunError, match="its score is not that of its descriptors"):
        make_extraction(run, asked(rows), CAPTIONS)
    with pytest.raises(DamagedRunError, match="descriptors that are none"):
        found_in(tmp_path / "zero", rows.assign(work=[np.zeros(WIDTH)] * WORKS))
    with pytest.raises(DamagedRunError, match="not asked for"):
        make_extraction(write_run(tmp_path / "more", rows), asked(rows.head(3)), CAPTIONS)


def test_images_are_found_by_their_samples(tmp_path: Path) -> None:
    ledger = Ledger(write_run(tmp_path, made()))
    wanted = {("in", "a", "k03"), ("in", "a", "gone"), ("out", "a", "k04")}
    assert read_images(ledger, "extraction", wanted) == {("in", "a", "k03"): b"png"}
    assert read_images(ledger, "other", wanted) == {}


def test_a_run_in_which_nothing_was_answered_says_so(tmp_path: Path) -> None:
    ledger = Ledger(write_run(tmp_path, made().head(1)))
    empty = ledger.scores().slice(0, 0)
    ledger.commit_unit("in", "a", 0, empty, QUARANTINE_SCHEMA.empty_table())
    with pytest.raises(RaymiaError, match="no caption was answered"):
        make_extraction(ledger.run, asked(made()), CAPTIONS)
