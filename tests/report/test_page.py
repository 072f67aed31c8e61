from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from raymia.evaluation.metrics import evaluate_run
from raymia.report.page import render, write_report
from raymia.report.plots import run_figures
from raymia.run.ledger import Ledger
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
