from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raymia.curation.fetch import fetch, read_urls
from raymia.data.manifest import UrlTable
from raymia.errors import ConfigError, RaymiaError


@pytest.fixture
def table(tmp_path: Path) -> str:
    """Four parts of 250 rows each, as data hubs keep large tables."""
    random = np.random.default_rng(0)
    for number in range(4):
        urls = [f"http://h/{number}/{i}" for i in range(250)]
        scores = {"score": random.uniform(4, 6, 250), "watermark": random.uniform(0, 1, 250)}
        part = pd.DataFrame({"URL": urls, "TEXT": [f"caption {i}" for i in range(250)], **scores, "other": "unread"})
        part.loc[0, ["score", "TEXT"]] = None
        part.loc[1, "URL"] = None
        part.to_parquet(tmp_path / f"part-{number}.parquet")
    return f"{tmp_path}/part-*.parquet"


def source(table: str, **fields: object) -> UrlTable:
    return UrlTable.model_validate({"table": table, "url_column": "URL", "caption_column": "TEXT", **fields})


def test_all_rows_with_a_url_are_read_in_order(table: str) -> None:
    rows = read_urls(source(table))
    assert list(rows) == ["url", "caption"]
    assert len(rows) == 4 * 249
    assert rows["url"].tolist()[:2] == ["http://h/0/0", "http://h/0/2"]
    assert rows["caption"].tolist()[0] == ""


def test_rows_outside_the_bounds_or_without_a_value_are_left_out(table: str) -> None:
    whole = pd.concat([pd.read_parquet(path) for path in sorted(Path(table).parent.glob("part-*"))])
    kept = whole[(whole["score"] >= 5) & (whole["watermark"] <= 0.5) & whole["URL"].notna()]
    assert read_urls(source(table, at_least={"score": 5}, at_most={"watermark": 0.5}))["url"].tolist() == kept["URL"].tolist()


def test_a_draw_takes_from_all_parts_alike_and_the_same_rows_for_the_same_seed(table: str) -> None:
    rows = read_urls(source(table, draw=200))
    assert len(rows) == 200
    assert rows.equals(read_urls(source(table, draw=200)))
    assert not rows.equals(read_urls(source(table, draw=200, seed=1)))
    parts = rows["url"].str.split("/").str[3].value_counts()
    assert len(parts) == 4
    assert parts.min() > 30
    assert rows["url"].is_unique


def test_a_table_that_is_not_there_or_lacks_a_column_is_named(table: str) -> None:
    with pytest.raises(ConfigError, match="no file matches"):
        read_urls(source(table.replace("part", "none")))
    with pytest.raises(ConfigError, match="no column quality"):
        read_urls(source(table, at_least={"quality": 1}))


def test_tables_of_urls_are_named_without_their_secrets() -> None:
    for table in ("nosuch://user:p@ss/word@host/*.parquet?sig=secret", "nosuch://user:p@ss/word@host/t.parquet?sig=secret"):
        with pytest.raises(ConfigError) as caught:
            read_urls(source(table))
        assert not any(word in str(caught.value) for word in ("ss/word", "secret"))


def test_captions_of_a_list_are_text_and_bounds_are_numbers_in_csv_and_parquet_alike(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"URL": ["http://h/1", "http://h/2", "http://h/3"], "TEXT": ["007", "true", None], "score": [4, None, 6]}
    )
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        assert read_urls(source(f"{tmp_path}/{name}"))["caption"].tolist() == ["007", "true", ""]
        assert read_urls(source(f"{tmp_path}/{name}", at_least={"score": 5}))["url"].tolist() == ["http://h/3"]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the place of img2dataset that makes its folder, or fails as long as there is a file `fail`."""
    path = tmp_path / "img2dataset"
    path.write_text(
        f"#!/bin/sh\n[ -e {tmp_path}/fail ] && {{ printf 'no: https://u:p@h/x?sig=secret \\351' >&2; exit 7; }}\n"
        f"mkdir -p {tmp_path}/out/tars; echo ran >> {tmp_path}/calls\n"
    )
    path.chmod(0o755)
    monkeypatch.setenv("RAYMIA_IMG2DATASET", str(path))
    return tmp_path


def test_what_was_fetched_is_not_fetched_again_and_a_mark_that_was_cut_off_does_no_harm(table: str, program: Path) -> None:
    out = program / "out"
    (program / "fail").touch()
    with pytest.raises(
        RaymiaError, match=r"img2dataset ended with code 7: no: https://h/x .*; run the same command again"
    ) as caught:
        fetch(source(table), out)
    assert "secret" not in str(caught.value)
    (program / "fail").unlink()
    (out / "list.sha256").write_bytes(b"")
    assert fetch(source(table), out) == fetch(source(table), out) == out / "tars"
    assert (program / "calls").read_text() == "ran\n"
    assert sorted(path.name for path in out.iterdir()) == ["list.sha256", "tars", "urls.parquet"]
    (out / "tars").rmdir()
    fetch(source(table), out)
    assert (program / "calls").read_text() == "ran\nran\n"
    with pytest.raises(ConfigError, match="holds what was fetched for another list"):
        fetch(source(table, draw=3), out)
