from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from raymia.evaluation.metrics import evaluate_run
from raymia.report.page import render, write_report
from raymia.report.plots import run_figures
from raymia.run.exhibits import Exhibit, Exhibits
from raymia.run.ledger import Ledger
from raymia.run.record import ServiceRecord
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
        write_tar(f"{prefix}0.tar", [(f"{i}.jpg", image_bytes(i)) for i in range(start, start + 4)])
    job = make_job(tmp_path, tiny, "run")
    scan(job)
    ledger = Ledger(job.run)
    record = ledger.require_scan()
    record.service = ServiceRecord(images=12, refusals=1, price_per_image=0.04, currency="EUR", spent=0.48, repeats=False)
    ledger.write_run(record)
    row = ledger.scores().to_pandas().sort_values("loss").iloc[-1]
    names = {name: row[name] for name in ("split", "shard", "key")}
    shown = {"member": True, "signal": "loss", "score": float(row["loss"]), "prompt": "<i>a fox</i>", "seed": 12345, "draw": 1}
    exhibit = Exhibit(**names, **shown, similarity=0.9, image="exhibits/000.png", answer="ab" * 32)
    gone = exhibit.model_copy(update={"shard": "gone", "image": "exhibits/001.png", "seed": None})
    odd = gone.model_copy(update={"signal": "caption"})
    ledger.write_bytes("exhibits/000.png", image_bytes(7, "PNG"))
    ledger.write_bytes("exhibits/001.png", b"no image")
    ledger.write_text("exhibits/exhibits.json", Exhibits(exhibits=[exhibit, gone, odd]).model_dump_json())
    write_report(ledger, evaluate_run(ledger))
    html = (tmp_path / "run" / "report" / "index.html").read_text()
    section = html[html.index('id="exhibits"') : html.index('id="provenance"')]
    assert section.count("data:image/jpeg;base64,") == 2
    assert "&lt;i&gt;a fox" in section
    assert "<i>" not in section
    assert "seed 12345" in section
    assert "no seed, draw 1" in section
    assert section.count("is no longer readable") == 4
    assert f"FPR {0:.3f}" in section or "FPR 0." in section
    assert "12 images, 1 refusals" in html
    assert "0.48 EUR at 0.04 an image" in html
    assert "one question had two answers" in html


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
