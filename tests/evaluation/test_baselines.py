"""Blind baselines: what they find, what they are given to see, and how one is added."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from raymia.errors import ConfigError
from raymia.evaluation.baselines import statistics
from raymia.evaluation.baselines.base import BASELINES, Baseline, baselines
from raymia.evaluation.blind import blind_scores
from raymia.evaluation.crossfit import Groups
from raymia.evaluation.roc import Floats, exact_roc

RANDOM = np.random.default_rng(0)
MEMBER = np.r_[np.ones(300, bool), np.zeros(400, bool)]


def frame_of(n: int = 700) -> pd.DataFrame:
    """Samples whose captions and statistics say nothing of any label."""
    words = ["cow", "tree", "house", "red car", "green boat", "old clock"]
    size = {name: RANDOM.integers(50, 90, n) for name in ("width", "height")}
    statistics = {name: RANDOM.random(n) for name in ("entropy", "colourfulness", "edge_density")}
    captions = [str(RANDOM.choice(words)) for _ in range(n)]
    return pd.DataFrame({"caption": captions, **size, "jpeg_bytes": RANDOM.integers(2000, 5000, n), **statistics})


def test_blind_baselines_find_a_planted_shift_and_nothing_where_there_is_none() -> None:
    frame = frame_of()
    fair = {name: exact_roc(scores, MEMBER).auc for name, scores in blind_scores(frame, MEMBER).items()}
    frame.loc[MEMBER, "caption"] = frame.loc[MEMBER, "caption"].str.upper()
    frame.loc[MEMBER, "width"] += 30
    shifted = {name: exact_roc(scores, MEMBER).auc for name, scores in blind_scores(frame, MEMBER).items()}
    assert all(0.4 < value < 0.6 for value in fair.values())
    assert shifted["caption"] > 0.99
    assert shifted["statistics"] > 0.9


def test_the_embedding_baseline_finds_a_shift_of_the_images_and_needs_every_embedding() -> None:
    random = np.random.default_rng(8)
    member = np.arange(300) < 150
    vectors = random.normal(size=(300, 6)) + 0.8 * member[:, None]
    table = pd.DataFrame({"caption": ["same"] * 300, "clip_embedding": list(vectors)})
    scores = blind_scores(table, member)
    assert set(scores) == {"embedding"}
    assert exact_roc(scores["embedding"], member).auc > 0.9
    as_read = table.astype({"clip_embedding": pd.ArrowDtype(pa.list_(pa.float32()))})
    assert blind_scores(as_read, member)["embedding"] == pytest.approx(scores["embedding"], rel=1e-3, abs=1e-3)
    table.loc[3, "clip_embedding"] = None
    assert blind_scores(table, member) == {}


def test_every_file_is_a_baseline_and_they_stand_in_the_order_that_they_name() -> None:
    assert BASELINES.names() == ["caption", "embedding", "statistics"]
    assert [baseline.name for baseline in baselines()] == ["statistics", "caption", "embedding"]
    assert all(baseline.title for baseline in baselines())


def test_a_baseline_that_would_read_a_score_is_refused_by_the_column() -> None:
    with pytest.raises(ConfigError, match="Cheat: column 'loss' is none that it may read"):

        class Cheat(Baseline):
            columns: ClassVar[tuple[str, ...]] = ("caption", "loss")


def test_a_baseline_is_given_its_columns_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    class Width(Baseline):
        name: ClassVar[str] = "width"
        title: ClassVar[str] = "the width"
        columns: ClassVar[tuple[str, ...]] = ("width",)

        def scores(self, table: pd.DataFrame, member: NDArray[np.bool_], seed: int, groups: Groups) -> Floats:
            assert list(table) == ["width"]
            return table["width"].to_numpy(float)

    monkeypatch.setattr("raymia.evaluation.blind.baselines", lambda: (Width(),))
    table = frame_of().assign(loss=1.0)
    assert blind_scores(table, MEMBER)["width"].tolist() == table["width"].tolist()
    assert blind_scores(table.assign(width=np.nan), MEMBER) == {}


def test_a_new_image_statistic_is_read_without_a_word_to_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    table = frame_of().assign(sharpness=9.0)
    assert statistics.features(table).shape == (700, 7)
    monkeypatch.setattr(statistics, "STATISTICS", [*statistics.STATISTICS, "sharpness"])
    assert statistics.features(table).shape == (700, 8)
    assert (statistics.features(table)[:, 7] == 9.0).all()


def test_a_run_from_before_there_was_a_statistic_keeps_its_baseline() -> None:
    table = frame_of().drop(columns="entropy")
    assert statistics.features(table).shape == (700, 6)
    assert "statistics" in blind_scores(table, MEMBER)
    assert "statistics" not in blind_scores(table.drop(columns="width"), MEMBER)


def test_aspect_and_bytes_per_pixel_are_derived_from_the_size() -> None:
    table = pd.DataFrame({"width": [40], "height": [20], "jpeg_bytes": [1600]})
    assert statistics.features(table).tolist() == [[40.0, 20.0, 2.0, 2.0]]


def test_a_table_without_captions_has_no_baseline_of_them_and_a_missing_caption_is_an_empty_one() -> None:
    table = frame_of()
    assert set(blind_scores(table.drop(columns="caption"), MEMBER)) == {"statistics"}
    empty, missing = table["caption"].copy(), table["caption"].copy()
    empty[:50], missing[:50] = "", None
    expected = blind_scores(table.assign(caption=empty), MEMBER)["caption"]
    assert np.array_equal(blind_scores(table.assign(caption=missing), MEMBER)["caption"], expected)
