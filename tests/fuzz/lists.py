"""Training lists, embeddings beside them and image files that say something of themselves, damaged."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console

from raymia.curation.file_claims import file_claims
from raymia.curation.lookup import lookup
from raymia.curation.works import Works
from raymia.data.arrays import vector_batches
from tests.curation.test_claims import exif, with_iptc, xmp
from tests.fuzz.mutation import mutate
from tests.fuzz.target import Target

CONSOLE = Console(stderr=True, quiet=True)
ROWS = 6


class Lists(Target):
    """Tables are looked through to their end, rows counted once, or refused in one line; what a file says costs no more."""

    name = "lists"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        columns = {
            "URL": [f"https://example.org/{i}.jpg" for i in range(ROWS)],
            "TEXT": ["a", None, "\u00e9", "", "d", "e"],
            "hash": list(range(ROWS)),
            "sha256": [f"{i:064x}" for i in range(ROWS)],
            "phash": pa.array([2**40 + i for i in range(ROWS)], pa.int64()),
        }
        table = pa.table(columns)
        pq.write_table(table, folder / "whole.parquet", row_group_size=2, compression="none")
        table.to_pandas().to_csv(folder / "whole.csv", index=False)
        np.save(folder / "whole.npy", np.ones((ROWS, 4), np.float16))
        (folder / "works.csv").write_text(f"url,sha256,phash\nhttps://example.org/1.jpg,{1:064x},{2**40:016x}\nx,,\n")
        buffer = io.BytesIO()
        said = xmp(dc_rights="(c)", plus_DataMining="DMI-PROHIBITED")
        Image.new("RGB", (9, 7)).save(
            buffer, "JPEG", xmp=said, exif=exif(Copyright="(c)", DateTimeOriginal="2020:01:01 00:00:00")
        )
        self._image = with_iptc(buffer.getvalue(), {55: b"20200101", 116: b"(c)"})

    def once(self, rng: random.Random) -> None:
        file_claims(mutate(self._image, rng))
        ending = rng.choice(("parquet", "csv", "npy"))
        path = self.folder / f"damaged.{ending}"
        path.write_bytes(mutate((self.folder / f"whole.{ending}").read_bytes(), rng))
        if ending == "npy":
            self._refusing(lambda: list(vector_batches(str(path), 4)))
        else:
            self._refusing(lambda: self._look(path))

    def _look(self, path: Path) -> None:
        summary = lookup(Works(str(self.folder / "works.csv")), [str(path)], CONSOLE, batch_rows=4).summary
        assert summary.works == 2
        for way in summary.ways:
            assert way.rows_compared <= summary.rows, way
            assert way.found <= way.looked_for, way
