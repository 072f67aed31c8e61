"""What a data set gives away by itself, from a manifest or a table that a user brings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from raymia.cli import app
from raymia.errors import ConfigError
from raymia.evaluation.sources import read_captions, read_samples
from tests.conftest import good_members


def captions(n: int = 300) -> pd.DataFrame:
    random = np.random.default_rng(0)
    member = random.random(n) < 0.5
    words = [" ".join(random.choice(["cow", "tree", "boat", "clock"], 4)) for _ in member]
    return pd.DataFrame({"caption": [w.upper() if m else w for w, m in zip(words, member, strict=True)], "member": member})


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_of_captions_says_that_it_gives_itself_away(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"captions.{kind}"
    captions().to_csv(path, index=False) if kind == "csv" else captions().to_parquet(path)
    done = CliRunner().invoke(app, ["evaluate", str(path), "--blind-only", "--json"])
    metrics = json.loads(done.stdout)
    assert metrics["signals"]["blind.caption"]["auc"]["value"] > 0.95
    assert metrics["verdict"]["verdict"] is None
    assert metrics["verdict"]["statement"].startswith("The data set gives membership away by itself: blind.caption")
    assert list(tmp_path.iterdir()) == [path]


def test_labels_may_be_words_or_numbers_and_others_are_refused_by_row(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("caption,member\nNA,True\nnull,0\n,yes\nx,\ny,unknown\n")
    table = read_captions(str(path))
    assert table["caption"].tolist() == ["NA", "null", "", "x", "y"]
    assert table["member"].tolist() == [True, False, True, None, None]
    path.write_text("caption,member\na,true\nb,maybe\n")
    with pytest.raises(ConfigError, match="`member` is 'maybe' in row 1"):
        read_captions(str(path))
    path.write_text("text,member\na,true\n")
    with pytest.raises(ConfigError, match="no column caption; it has text, member"):
        read_captions(str(path))
    with pytest.raises(ConfigError, match="no such file"):
        read_captions(str(tmp_path / "gone.csv"))


def test_a_manifest_is_read_without_a_model_and_every_sample_is_accounted_for(
    tmp_path: Path, write_tar: Callable[[str, list[tuple[str, bytes]]], Path]
) -> None:
    write_tar("m.tar", [*good_members(12), ("bad.jpg", b"")])
    write_tar("n.tar", good_members(15, start=50))
    (tmp_path / "twins.csv").write_text("split,key,cluster\nin,0003,a\nout,0055,a\n")
    manifest = {"name": "set", "clusters": "twins.csv"}
    manifest["splits"] = [
        {"name": "in", "member": True, "shards": ["m.tar"]},
        {"name": "out", "member": False, "shards": ["n.tar"]},
    ]
    path = tmp_path / "set.yaml"
    path.write_text(yaml.safe_dump(manifest))
    table, counts = read_samples(str(path))
    assert (counts.read, counts.scored, counts.by_reason) == (28, 27, {"empty_image": 1})
    assert table["caption"].iloc[0] == "picture number 0"
    assert table["cluster"].notna().sum() == 2
    done = CliRunner().invoke(app, ["evaluate", str(path), "--blind-only"])
    assert done.exit_code == 0, done.output
    assert "blind.statistics" in done.output
    assert "read 28 = scored 27 + quarantined 1 (empty_image 1)" in done.output


def test_what_is_neither_run_nor_manifest_nor_table_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["evaluate", str(tmp_path), "--blind-only"])
    assert isinstance(done.exception, ConfigError)
    assert "no run.json" in str(done.exception)
