from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymia.evaluation.metrics import evaluate_run
from raymia.report.page import render, shown_exhibits, write_report
from raymia.report.plots import run_figures
from raymia.run.ledger import Ledger
from raymia.run.record import ServiceRecord
from raymia.run.shown import SCHEMA, exhibits_of
from tests.conftest import image_bytes
from tests.scan.test_pipeline import make_job, scan


@pytest.mark.usefixtures("bare_loop")
def test_the_report_shows_verdict_table_and_images_and_escapes_captions(
    tmp_path: Path, tiny: Path, write_tar: Callable[[str, list[tuple[str, bytes]]], Path]
) -> None:
    for prefix, start in (("m", 0), ("n", 50)):
        members: list[tuple[str, bytes]] = []
        for i in range(start, start + 8):
            members += [(f"{i}.jpg", image_bytes(i)), (f"{i}.txt", b"<script>alert(1)</script> & <b>bold</b>")]
        write_tar(f"{prefix}0.tar", [*members, (f"{prefix}bad.jpg", b"")])
    job = make_job(tmp_path, tiny, "run")
    scan(job)
    evaluation = evaluate_run(Ledger(job.run))
    html = render(evaluation, run_figures(evaluation))
    assert html.count("<script") == 1
    assert "<b>bold" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert html.count("data:image/jpeg;base64,") >= 16
    assert "empty_image" in html
    assert not re.search(r"(src|href)=\"https?:", html)
    assert evaluation.metrics.counts.read == 18
    for name in ("loss", "loss.t=100", "pia", "random", "blind.statistics"):
        assert name in evaluation.metrics.signals
    write_report(Ledger(job.run), evaluation)
    folder = tmp_path / "run" / "report"
    assert (folder / "figures" / "roc.png").read_bytes().startswith(b"\x89PNG")
    drawn = {file.name: file.read_text() for file in (folder / "figures").glob("*.svg")}
    assert re.search(r">1</text>.*>0\.[2-9]</text>|>0\.[2-9]</text>.*>1</text>", drawn["roc_log.svg"], re.DOTALL)
    assert not [name for name, svg in drawn.items() if "mathdefault" in svg], "powers of ten are numbers"
    signals = pd.read_csv(folder / "tables" / "signals.csv").set_index("signal")
    assert signals.loc["loss", "auc"] == pytest.approx(evaluation.metrics.signals["loss"].auc.value)  # type: ignore[union-attr]
    assert pd.read_csv(folder / "tables" / "quarantine.csv")["samples"].sum() == 2
    assert len(pd.read_parquet(folder / "probability.parquet")) == 16


@pytest.mark.usefixtures("bare_loop")
def test_exhibits_stand_beside_their_works_with_prompt_seed_and_what_was_spent(
    tmp_path: Path, tiny: Path, write_tar: Callable[[str, list[tuple[str, bytes]]], Path]
) -> None:
    for prefix, start in (("m", 0), ("n", 50)):
        named = [[(f"{i}.jpg", image_bytes(i)), (f"{i}.txt", b"<i>a fox</i>")] for i in range(start, start + 4)]
        write_tar(f"{prefix}0.tar", [member for pair in named for member in pair])
    job = make_job(tmp_path, tiny, "run", attacks={"generation": {"images": 1, "steps": 2, "guidance": 1.0, "metric": "ssim"}})
    scan(job)
    ledger = Ledger(job.run)
    record = ledger.require_scan()
    record.service = ServiceRecord(images=12, refusals=1, price_per_image=0.04, currency="EUR", spent=0.48, repeats=False)
    ledger.write_run(record)
    found = exhibits_of(ledger, "generation", 12)
    scores = ledger.scores().to_pandas().set_index("key")
    assert [one.similarity for one in found] == sorted(scores["generation.max"], reverse=True)
    file = tmp_path / "run" / "exhibits" / "members" / "m0-000000.parquet"
    rows = pq.read_table(file).to_pylist()
    rows[0] |= {"seed": None, "answer": "ab" * 32}
    rows[1] |= {"image": None}
    rows[2] |= {"image": b"no image"}
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), file)
    evaluation = evaluate_run(ledger)
    write_report(ledger, evaluation)
    html = (tmp_path / "run" / "report" / "index.html").read_text()
    section = html[html.index('id="exhibits"') : html.index('id="provenance"')]
    assert section.count("data:image/jpeg;base64,") == 2 * 8 - 2
    assert section.count("the closest answer is no longer readable") == 2
    assert "&lt;i&gt;a fox" in section
    assert "<i>" not in section
    others = [one for one in found if one.key != rows[0]["key"]]
    assert all(f"seed {one.seed}" in section for one in others), "no digit of a seed is lost where others have none"
    assert "no seed, draw 0; answer abababababababab" in section
    assert section.count("generation.max") == section.count(", FPR ") == 8
    assert "12 images, 1 refusals" in html
    assert "0.48 EUR at 0.04 an image" in html
    assert "one question had two answers" in html
    # Earlier versions wrote no answers; what is not there is not shown; and what is damaged spoils no report.
    pq.write_table(pa.Table.from_pylist(rows[:1], SCHEMA).drop_columns(["answer"]), file)
    assert [one.exhibit.answer for one in shown_exhibits(ledger, evaluation)] == [None] * 5
    file.write_bytes(b"damaged")
    assert shown_exhibits(ledger, evaluation) == []


@pytest.mark.usefixtures("bare_loop")
def test_unknown_membership_is_scored_without_a_verdict(
    tmp_path: Path, tiny: Path, write_tar: Callable[[str, list[tuple[str, bytes]]], Path]
) -> None:
    write_tar("m0.tar", [(f"{i}.jpg", image_bytes(i)) for i in range(3)])
    job = make_job(tmp_path, tiny, "run")
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text("name: x\nsplits:\n  - {name: all, member: unknown, shards: ['m*.tar']}\n")
    scan(job)
    evaluation = evaluate_run(Ledger(job.run))
    assert evaluation.metrics.verdict.verdict is None
    assert evaluation.metrics.signals["loss"].auc is None
    assert evaluation.metrics.signals["loss"].reason
    assert "No verdict" in render(evaluation, run_figures(evaluation))
