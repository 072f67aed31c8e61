"""The ways in which a row of a training list names a work: by address, by digest of the file, by its look, by embedding.

Each knows what is looked for, and is then shown batch after batch of the list.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raymia.curation.addresses import MAX_LENGTH, address_of
from raymia.curation.digests import SIZES, digest_texts
from raymia.curation.perceptual import hashes_of
from raymia.data.tables import text_of

MAX_BITS = 4
"""Bits of a perceptual hash, of 64, in which a row may differ from a work."""
MIN_COSINE = 0.98
"""Cosine of two embeddings from which on a row is taken for a work."""
ROUNDING = 1e-5
"""The search by embedding reaches so much further, lest rounding lose a pair; cosines are then held against the bound."""
WAYS = ("url", "url without query", "host and path", "sha256", "md5", "phash", "embedding")
"""The ways, those that say most first in each kind."""
SURE = ("url", "sha256", "md5")
"""Those in which a row names the work itself, and not one that is like it."""

_PLAIN_HOST = r"^https?://(?P<host>[a-z0-9_-][a-z0-9._-]*)(?::[0-9]{0,4})?(?:[/?#]|$)"
"""Addresses, in lower case, whose host Arrow can tell; the others are looked at one by one."""

Hit = tuple[int, int, str, float | None]
"""Number of the work, number of the row in its batch, way, and distance where there is one."""


class Way(ABC):
    """One means of finding.

    Attributes:
        rows: rows seen so far that could be compared.
    """

    def __init__(self) -> None:
        self.rows = 0

    @abstractmethod
    def find(self, column: pa.Array) -> Iterator[Hit]:
        """The rows of a batch that name a work, by the column that is for this."""


class ByAddress(Way):
    """By URL: equal, but for the query, or in host and path alone."""

    def __init__(self, urls: Mapping[int, tuple[str, bool]]) -> None:
        """Take the URL by the number of the work, and whether it is whole: others may have had a query."""
        super().__init__()
        self._works: dict[str, dict[str, set[int]]] = {way: defaultdict(set) for way in WAYS[:3]}
        hosts = set()
        for work, (url, is_whole) in urls.items():
            address = address_of(url)
            if address is None:
                continue
            spelled = (address.whole, address.without_query, address.host_and_path)
            for way, text in zip(WAYS[:3], spelled, strict=True):
                if is_whole or way != WAYS[0]:
                    self._works[way][text].add(work)
            hosts.add(address.host)
        self._hosts = pa.array(sorted(hosts), pa.large_string())

    def find(self, column: pa.Array) -> Iterator[Hit]:
        urls = text_of("url", column)
        lower = pc.utf8_lower(urls)
        hosts = pc.struct_field(pc.extract_regex(lower, _PLAIN_HOST), "host")
        hosts = pc.replace_substring_regex(pc.utf8_rtrim(hosts, "."), r"^www\.", "")
        told = pc.is_valid(hosts)
        odd = pc.and_(pc.invert(told), pc.is_valid(urls))
        short = pc.less_equal(pc.utf8_length(urls), MAX_LENGTH)
        self.rows += int(pc.sum(pc.and_kleene(told, short)).as_py() or 0)
        maybe = pc.or_kleene(pc.is_in(hosts.cast(pa.large_string()), self._hosts), odd)
        for row in np.flatnonzero(np.asarray(maybe.fill_null(False))).tolist():
            address = address_of(urls[row].as_py())
            self.rows += address is not None and not told[row].as_py()
            met: set[int] = set()
            spelled = () if address is None else (address.whole, address.without_query, address.host_and_path)
            for way, text in zip(WAYS, spelled, strict=False):
                works = self._works[way].get(text, set()) - met
                yield from ((work, row, way, None) for work in sorted(works))
                met |= works


class ByDigest(Way):
    """By the digest of the image file: equal files alone."""

    def __init__(self, kind: str, digests: Mapping[int, Iterable[str]]) -> None:
        """Take digests in lower case by the number of the work; `kind` is one of `SIZES`."""
        super().__init__()
        self._kind = kind
        self._works: dict[str, set[int]] = defaultdict(set)
        for work, values in digests.items():
            for value in values:
                self._works[value].add(work)
        self._known = pa.array(sorted(self._works), pa.large_string())

    def find(self, column: pa.Array) -> Iterator[Hit]:
        texts = digest_texts(self._kind, column)
        fit = pc.match_substring_regex(texts, f"^[0-9a-f]{{{SIZES[self._kind]}}}$")
        self.rows += int(pc.sum(fit).as_py() or 0)
        for row in np.flatnonzero(np.asarray(pc.is_in(texts, self._known))).tolist():
            for work in sorted(self._works.get(texts[row].as_py(), ())):
                yield work, row, self._kind, None


class ByLook(Way):
    """By perceptual hash: equal but for a few bits."""

    def __init__(self, hashes: Mapping[int, Iterable[int]]) -> None:
        """Take the hashes by the number of the work, which may have several: as it is shown, and as its file holds it."""
        super().__init__()
        pairs = [(number, value) for number, values in hashes.items() for value in sorted(values)]
        self._numbers = [number for number, _ in pairs]
        self._index = faiss.IndexBinaryFlat(64)
        self._index.add(_bytes(np.array([value for _, value in pairs], np.uint64)))

    def find(self, column: pa.Array) -> Iterator[Hit]:
        hashes, there = hashes_of(column if pa.types.is_integer(column.type) else text_of("phash", column))
        rows = np.flatnonzero(there)
        self.rows += len(rows)
        if len(rows) and self._index.ntotal:
            limits, bits, found = self._index.range_search(_bytes(hashes[rows]), MAX_BITS + 1)
            asked = np.repeat(rows, _counts(limits))
            nearest: dict[tuple[int, int], float] = {}
            for row, place, distance in zip(asked.tolist(), found.tolist(), bits.tolist(), strict=True):
                pair = self._numbers[place], row
                nearest[pair] = min(float(distance), nearest.get(pair, float(distance)))
            yield from ((work, row, "phash", distance) for (work, row), distance in nearest.items())


class ByEmbedding(Way):
    """By embedding: within an angle. Lists and works must be embedded by the same model, which no number can show.

    Attributes:
        width: numbers of an embedding.
    """

    def __init__(self, vectors: Mapping[int, NDArray[np.float32]], width: int) -> None:
        """Take the embeddings, each (width,), by the number of the work."""
        super().__init__()
        self.width = width
        self._numbers = list(vectors)
        self._index = faiss.IndexFlatIP(width)
        self._index.add(unit(np.array([vectors[number] for number in self._numbers], np.float32).reshape(-1, width))[0])

    def find(self, column: pa.Array) -> Iterator[Hit]:
        rows, vectors = vectors_of(column, self.width)
        yield from self.find_vectors(vectors, rows)

    def find_vectors(self, vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> Iterator[Hit]:
        """The same of (n, width) vectors, which stand in those rows of their batch."""
        usable, there = unit(vectors)
        rows = rows[there]
        self.rows += len(rows)
        if len(rows) and self._index.ntotal:
            limits, cosines, found = self._index.range_search(usable, MIN_COSINE - ROUNDING)
            asked = np.repeat(rows, _counts(limits))
            for row, work, cosine in zip(asked.tolist(), found.tolist(), cosines.tolist(), strict=True):
                if cosine >= MIN_COSINE:
                    yield self._numbers[work], row, "embedding", max(0.0, 1.0 - cosine)


def unit(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(m, width) vectors of length 1, of those of (n, width) that have a length; and which those are."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    there = np.isfinite(lengths) & (lengths > 0)
    return np.ascontiguousarray(vectors[there] / lengths[there, None], np.float32), there


def vectors_of(column: pa.Array, width: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The rows of a column of lists that hold that many numbers, and these; a missing number makes its row one without."""
    there = np.asarray(pc.fill_null(pc.equal(pc.list_value_length(column), width), False))
    rows = np.flatnonzero(there)
    numbers = column.take(pa.array(rows)).flatten()
    values = np.asarray(numbers.to_numpy(zero_copy_only=False), np.float32)
    return rows, values.reshape(len(rows), width)


def _counts(limits: NDArray[Any]) -> NDArray[np.int64]:
    """How many were found for each query, by where those of each begin."""
    places = limits.astype(np.int64)
    return places[1:] - places[:-1]


def _bytes(hashes: NDArray[np.uint64]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(hashes.astype(np.uint64)).view(np.uint8).reshape(-1, 8)
