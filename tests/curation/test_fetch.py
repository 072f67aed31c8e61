from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raymia.curation.fetch import read_urls
from raymia.data.manifest import UrlTable
from raymia.errors import ConfigError


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
