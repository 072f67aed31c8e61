from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raymia.curation import neighbours
from raymia.curation.neighbours import build_index, pairs_within, search
from raymia.run.storage import Storage
from tests.curation.conftest import CONSOLE

Planted = tuple[np.ndarray, np.ndarray, set[tuple[int, int]]]


def unit(random: np.random.Generator, count: int, width: int) -> np.ndarray:
    vectors = random.standard_normal((count, width), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def planted(count: int, queries: int, neighbours: int, width: int = 96, furthest: float = 0.49) -> Planted:
    """Random unit vectors, and queries of which some lie within a known distance of one of them."""
    random = np.random.default_rng(0)
    vectors, asked = unit(random, count, width), unit(random, queries, width)
    rows, targets = random.choice(queries, neighbours, False), random.choice(count, neighbours, False)
    aside = unit(random, neighbours, width)
    aside -= (aside * vectors[targets]).sum(1, keepdims=True) * vectors[targets]
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    cosine = 1 - random.uniform(0.02, furthest, (neighbours, 1)).astype(np.float32) ** 2 / 2
    asked[rows] = cosine * vectors[targets] + np.sqrt(1 - cosine**2) * aside
    return vectors, asked, set(zip(rows.tolist(), targets.tolist(), strict=True))


def test_pairs_among_vectors_are_those_of_every_comparison(tmp_path: Path, local_ray: None) -> None:
    vectors, asked, _ = planted(300, 40, 20, width=16, furthest=0.8)
    both = np.concatenate([vectors, asked])
    found = pairs_within(both, 0.9, Storage(str(tmp_path)), CONSOLE)
    distances = np.linalg.norm(both[:, None] - both[None], axis=2)
    expected = {(i, j) for i, j in np.argwhere(distances < 0.9) if i < j}
    assert set(zip(found["one"], found["other"], strict=True)) == expected
    assert found["distance"].is_monotonic_increasing
    assert np.allclose(found["distance"], distances[found["one"], found["other"]], atol=1e-3)


def test_a_search_that_was_stopped_goes_on_and_one_of_other_vectors_starts_anew(
    tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", 64)
    vectors, asked, expected = planted(500, 150, 30)
    storage = Storage(str(tmp_path))
    whole = pairs_within(vectors, 0.5, storage, CONSOLE, asked)
    assert set(zip(whole["one"], whole["other"], strict=True)) == expected
    (tmp_path / "pairs" / "000001.parquet").unlink()
    kept = (tmp_path / "pairs" / "000000.parquet").stat().st_mtime_ns
    assert pairs_within(vectors, 0.5, storage, CONSOLE, asked).equals(whole)
    assert (tmp_path / "pairs" / "000000.parquet").stat().st_mtime_ns == kept
    assert len(pairs_within(vectors, 0.5, storage, CONSOLE, asked[:100])) < len(whole)


def test_planted_neighbours_are_found_by_the_inexact_search_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "EXACT", 10_000)
    vectors, asked, expected = planted(50_000, 500, 200)
    rows, found, distances = search(build_index(vectors), asked, 0.5)
    assert set(zip(rows.tolist(), found.tolist(), strict=True)) == expected
    assert np.allclose(distances, np.linalg.norm(asked[rows] - vectors[found], axis=1), atol=1e-3)
