"""Planted neighbours among random unit vectors: how many the search finds, in what time and memory.

Random vectors are the hardest case: they form no cells. Real embeddings do.

    python benchmarks/neighbour_search.py --vectors 1000000 --queries 100000 --neighbours 1000
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time

import numpy as np
import psutil
from rich.console import Console

from raymia.curation.neighbours import PROBES, Vectors, pairs_within
from raymia.run.storage import Storage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--neighbours", type=int, default=1_000, help="planted at distances uniform between 0.02 and 0.49")
    parser.add_argument("--width", type=int, default=768, help="768 is that of ViT-L/14")
    parser.add_argument("--max-distance", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random = np.random.default_rng(arguments.seed)
    vectors, queries = (_unit(random, count, arguments.width) for count in (arguments.vectors, arguments.queries))
    rows = random.choice(len(queries), arguments.neighbours, replace=False)
    targets = random.choice(len(vectors), arguments.neighbours, replace=False)
    distances = random.uniform(0.02, 0.49, arguments.neighbours)
    queries[rows] = _beside(random, vectors[targets], distances)
    memory = _PeakMemory()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, memory:
        found = pairs_within(vectors, arguments.max_distance, Storage(folder), Console(stderr=True), queries)
    seconds = time.perf_counter() - start
    pairs = set(zip(found["one"], found["other"], strict=True))
    hit = np.array([(row, target) in pairs for row, target in zip(rows, targets, strict=True)])
    print(
        json.dumps(
            {
                **vars(arguments),
                "probes": PROBES,
                "cpus": psutil.cpu_count(),
                "found": int(hit.sum()),
                "missed_distances": sorted(distances[~hit].round(3).tolist()),
                "other_pairs": len(pairs) - int(hit.sum()),
                "seconds": round(seconds, 1),
                "peak_memory_gib": round(memory.peak / 2**30, 2),
                "vectors_gib": round((vectors.nbytes + queries.nbytes) / 2**30, 2),
            },
            indent=2,
        )
    )


def _unit(random: np.random.Generator, count: int, width: int) -> Vectors:
    vectors = random.standard_normal((count, width), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _beside(random: np.random.Generator, vectors: Vectors, distances: np.ndarray) -> Vectors:
    """Unit vectors at these Euclidean distances, in random directions."""
    aside = _unit(random, *vectors.shape)
    aside -= (aside * vectors).sum(1, keepdims=True) * vectors
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    cosine = (1.0 - distances[:, None] ** 2 / 2.0).astype(np.float32)
    beside: Vectors = cosine * vectors + np.sqrt(1.0 - cosine**2) * aside
    return beside


class _PeakMemory:
    """The most memory of the machine in use, above what was in use at the start."""

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._start = psutil.virtual_memory().used
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            self.peak = max(self.peak, psutil.virtual_memory().used - self._start)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


if __name__ == "__main__":
    main()
