"""What is fuzzed: each edge to files that somebody else made, and what must hold whatever they hold."""

from __future__ import annotations

import io
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image, features

from raymia.config import load_job
from raymia.data.captions import caption_beside, caption_of
from raymia.data.images import ImageError, decode_image
from raymia.data.manifest import Shard, load_manifest, resolve_shards
from raymia.data.prompts import Prompts
from raymia.data.selection import ShardReader
from raymia.data.shapes import square
from raymia.data.tables import read_table
from raymia.data.tar import RawSample, ShardEnd, read_shard, read_tar
from raymia.replica.folder import find_pipeline
from raymia.run.columns import QUARANTINE_SCHEMA
from raymia.run.ledger import Ledger
from raymia.run.status import read_status
from raymia.scan.batches import ShardWork, batches
from raymia.scan.decoding import decode_rows
from raymia.testbed.architecture import save_tiny
from tests.conftest import good_members, image_bytes, tar_bytes
from tests.fuzz.lists import Lists
from tests.fuzz.mutation import mutate, mutate_png, mutate_tar, mutate_text, odd_tar
from tests.fuzz.target import Target
from tests.fuzz.weights import Adapters, GgufFiles, SingleFiles
from tests.run.records import scan_record

SIDE_PX = 16
MAX_PIXELS = 300_000
JOB = """
manifest: set.yaml
replica: {model: testbed-tiny, dtype: float32, resolution_px: 64}
attacks:
  loss: {timesteps: [100], draws: 1}
  random: {}
pool: {replicas: 1, batch_size: 4}
unit_size: 8
seed: 0
max_quarantined_fraction: 0.5
"""
MANIFEST = """
name: set
licence: CC0
provenance: made up
valid_for_models: ['*']
splits:
- name: members
  member: true
  shards: ['m{0..1}.tar', 'other-*.tar']
  samples: 4
- name: non_members
  member: unknown
  shards: [n0.tar]
"""
WORDS = (
    "010", "1:30", "yes", "~", "null", "{}", "[]", "[[", "{a: b", "&a", "*a", "<<: *a", "!!python/object:os.system {}",
    "!!binary aGk=", "2001-01-01", "0x7f", "1e999", ".nan", "-1", "99999999999999999999", "'", '"', "|", ">", "\t",
    "#", "- ", ": ", "\x00", "\ufeff",
    "attacks:", "seed:", "../../x", "s3://a:b@c/d", "http://127.0.0.1:1/x.tar?sig=1", "{0..999999999}",
    "{a,{b,{c,d}}}", "*?[", "🙂",
    "a" * 300,
)  # fmt: skip


class Tars(Target):
    """Tars: every sample once, whole or with a reason, and then the end; what is decoded of them closes."""

    name = "tars"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        png, webp = image_bytes(1, "PNG", (9, 7)), image_bytes(2, "WEBP", (9, 7))
        bad_json = b'{"caption": "\\ud800"}'
        self._contents = (image_bytes(0, size=(9, 7)), png, webp, b"", b"words", b"\xff\xfea\0", b'{"caption": 1}', bad_json)
        self._base = [tar_bytes(good_members(count)) for count in (0, 1, 4)]
        self._path = folder / "shard.tar"

    def once(self, rng: random.Random) -> None:
        content = odd_tar(rng, self._contents) if rng.random() < 0.5 else rng.choice(self._base)
        if rng.random() < 0.2:
            content += odd_tar(rng, self._contents)
        if rng.random() < 0.8:
            content = mutate_tar(content, rng)
        from_memory = list(read_tar(io.BytesIO(content)))
        self._path.write_bytes(content)
        assert list(read_shard(str(self._path))) == from_memory
        *samples, end = from_memory
        assert isinstance(end, ShardEnd)
        assert all(isinstance(sample, RawSample) for sample in samples)
        assert [sample.index for sample in samples] == list(range(end.samples))
        whole = [sample.key for sample in samples if sample.fault is None]
        assert len(whole) == len(set(whole)), "one key twice"
        for sample in samples:
            assert (sample.image is None) == (sample.fault is not None)
            sample.key.encode()
            sample.caption.encode()
        self.refusals += end.fault is not None
        self._close(end)

    def _close(self, end: ShardEnd) -> None:
        """What is read is decoded or has a reason, whichever way it is cut, and one sample that is wanted alone is the same."""
        reader = ShardReader(Shard(split="members", name="shard", url=str(self._path), member=True))
        rows = list(batches(ShardWork(reader, frozenset()), 4, 2, Prompts("shuffled", 0)))
        decoded = [
            row
            for table in rows[:-1]
            for row in decode_rows(table, square(SIDE_PX), MAX_PIXELS).column("samples").to_pylist()[0]
        ]
        assert len(decoded) == end.samples
        for row in decoded:
            assert (row["reason"] is None) == (row["stage"] is None)
            assert (row["reason"] is None) == (row["width"] is not None)
        (last,) = rows[-1].column("end").to_pylist()
        assert (last["samples"], last["reason"]) == (end.samples, end.fault.reason if end.fault else None)


class Images(Target):
    """Images: pixels of the size that was asked for, or a reason."""

    name = "images"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._base = list(_pictures())

    def once(self, rng: random.Random) -> None:
        content = rng.choice(self._base)
        changed = mutate_png(content, rng) if content.startswith(b"\x89PNG") and rng.random() < 0.6 else mutate(content, rng)
        try:
            image = decode_image(changed, SIDE_PX, MAX_PIXELS)
        except ImageError:
            self.refusals += 1
            return
        assert image.pixels.shape == (SIDE_PX, SIDE_PX, 3)
        assert image.pixels.dtype == np.uint8
        assert 0 < image.width * image.height <= MAX_PIXELS


def _pictures() -> list[bytes]:
    found = []
    rng = np.random.default_rng(0)
    pixels = Image.fromarray(rng.integers(0, 256, (21, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x829A] = 6, "words", 0.5
    ways = [("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "LA"), ("PNG", "1"), ("PNG", "I;16"), ("JPEG", "RGB")]
    ways += [("JPEG", "CMYK"), ("JPEG", "L"), ("WEBP", "RGB"), ("WEBP", "RGBA"), ("GIF", "P"), ("TIFF", "RGB"), ("TIFF", "F")]
    ways += [("TIFF", "CMYK"), ("TIFF", "I;16"), ("TIFF", "LAB"), ("BMP", "RGB"), ("BMP", "P"), ("BMP", "1")]
    ways += [("JPEG2000", "RGB")] if features.check("jpg_2000") else []
    ways += [("AVIF", "RGB")] if features.check("avif") else []
    for kind, mode in ways:
        buffer = io.BytesIO()
        image = Image.fromarray(np.asarray(pixels.convert("L"), np.uint16) * 257) if mode == "I;16" else _in_mode(pixels, mode)
        options = {"exif": exif} if kind in ("PNG", "JPEG", "WEBP", "TIFF") and mode != "LAB" else {}
        image.save(buffer, kind, **options)
        found.append(buffer.getvalue())
    buffer = io.BytesIO()
    pixels.save(buffer, "MPO", save_all=True, append_images=[pixels])
    return [*found, buffer.getvalue()]


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "LAB":
        return Image.frombytes("LAB", image.size, image.tobytes())
    return image.convert(mode)


class Captions(Target):
    """Captions: text that UTF-8 can spell, whatever stands beside an image or in a table."""

    name = "captions"
    TEXTS = (
        "a cat",
        "\ufeffa cat",
        "e\u0301",
        "😀",
        "",
        " \n",
        '{"caption": "a cat"}',
        '{"caption": null}',
        "[" * 60,
        '{"a":' * 60,
    )

    def once(self, rng: random.Random) -> None:
        files = {}
        for extension in ("txt", "json"):
            encoding = rng.choice(("utf-8", "utf-16", "utf-32", "latin-1"))
            content = rng.choice(self.TEXTS).encode(encoding, "replace")
            if rng.random() < 0.8:
                files[extension] = mutate(content, rng) if rng.random() < 0.7 else content
        for found in (caption_beside(files), caption_of(rng.choice(self.TEXTS))):
            found.text.encode()
            assert found.text == found.text.strip()
            assert ("no_caption" in found.flags) == (not found.text)
            assert len(found.flags) == len(set(found.flags))


class Documents(Target):
    """Job files and manifests: read, or refused in one line."""

    name = "documents"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._job, self._manifest = folder / "job.yaml", folder / "set.yaml"
        (folder / "other-1.tar").write_bytes(tar_bytes([]))

    def once(self, rng: random.Random) -> None:
        job, manifest = (mutate_text(text, rng, WORDS).encode("utf-8", "replace") for text in (JOB, MANIFEST))
        if rng.random() < 0.2:
            job, manifest = mutate(job, rng), mutate(manifest, rng)
        self._job.write_bytes(job)
        self._manifest.write_bytes(manifest)
        self._refusing(lambda: load_job(self._job))
        self._refusing(lambda: resolve_shards(*load_manifest(str(self._manifest))))


class Tables(Target):
    """Tables: what was text is text, or the table is refused in one line."""

    name = "tables"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        rows = pd.DataFrame({"file": ["0003.jpg", "b.jpg", "c"], "caption": ["007", "true", None]})
        csv, parquet = folder / "t.csv", folder / "t.parquet"
        rows.to_csv(csv, index=False)
        rows.to_parquet(parquet)
        self._base = {csv: csv.read_bytes(), parquet: parquet.read_bytes()}

    def once(self, rng: random.Random) -> None:
        path, content = rng.choice(list(self._base.items()))
        path.write_bytes(mutate(content, rng, 3))
        self._refusing(lambda: self._read(path))

    @staticmethod
    def _read(path: Path) -> None:
        table = read_table(str(path), ("file", "caption"), "table")
        for name in ("file", "caption"):
            assert all(isinstance(value, str) for value in table[name].dropna()), table[name].tolist()


class Models(Target):
    """Pipeline folders: one that is accepted is the undamaged one in all that its family reads; others are refused."""

    name = "models"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._model = folder / "model"
        save_tiny(self._model)
        self._files = [path for path in self._model.rglob("*") if path.is_file()]

    def once(self, rng: random.Random) -> None:
        path = rng.choice(self._files)
        content = path.read_bytes()
        if path.suffix == ".json" and rng.random() < 0.6:
            path.write_bytes(_with_other_field(content, rng))
        else:
            # Headers of safetensors are where lies are told; what follows is numbers.
            size = min(len(content), 4096)
            path.write_bytes(mutate(content[:size], rng) + content[size:])
        try:
            if self._refusing(lambda: find_pipeline(str(self._model), with_weights=True)):
                self._refusing(lambda: find_pipeline(str(self._model), with_weights=True).fingerprint())
        finally:
            path.write_bytes(content)


def _with_other_field(content: bytes, rng: random.Random) -> bytes:
    value = json.loads(content)
    odd = rng.choice((None, -1, 0, 2**63, 1e308, "", "x", [], {}, [None], True, ["diffusers", "DDIMScheduler"]))
    if isinstance(value, dict) and value and rng.random() < 0.9:
        value[rng.choice([*value, "made_up"])] = odd
    else:
        value = odd
    return json.dumps(value).encode()


class Runs(Target):
    """Run directories: read, or refused in one line; rows are never more than there were."""

    name = "runs"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._whole, self._run = folder / "whole", folder / "run"
        make_run(self._whole)

    def once(self, rng: random.Random) -> None:
        shutil.rmtree(self._run, ignore_errors=True)
        shutil.copytree(self._whole, self._run)
        files = sorted(path for path in self._run.rglob("*") if path.is_file())
        path = rng.choice(files)
        match rng.randrange(4):
            case 0:
                path.unlink()
            case 1:
                shutil.copy(path, path.with_name(f"{rng.choice(('stray', 'a-000009', '.x', 'm0-x'))}{path.suffix}"))
            case _:
                path.write_bytes(mutate(path.read_bytes(), rng))
        ledger = Ledger(str(self._run))
        self._refusing(lambda: read_status(str(self._run)))
        self._refusing(ledger.require_scan)
        self._refusing(ledger.frame)
        self._refusing(lambda: ledger.counts(None))


def make_run(folder: Path) -> None:
    """A run of two shards, one finished and one that has two units."""
    ledger = Ledger(str(folder))
    for shard, units in (("m0", 2), ("a", 2)):
        for unit in range(units):
            ledger.commit_unit("in", shard, unit, _scores(shard, unit), _quarantine(shard, unit))
    ledger.finish_shard("in", "m0", ShardEnd(6, 100, None), 2)
    ledger.write_run(scan_record())


def _scores(shard: str, unit: int) -> pa.Table:
    keys = [f"{shard}{unit}{number}" for number in range(2)]
    return pa.table({"key": keys, "unit": [unit] * 2, "flags": ["", "no_caption"], "loss": [0.5, float(unit)]})


def _quarantine(shard: str, unit: int) -> pa.Table:
    row = {"split": "in", "shard": shard, "unit": unit, "key": "x", "stage": "decode", "reason": "corrupt_image"}
    return pa.Table.from_pylist([row], schema=QUARANTINE_SCHEMA)


TARGETS: tuple[type[Target], ...] = (
    Tars,
    Images,
    Captions,
    Documents,
    Tables,
    Lists,
    Models,
    SingleFiles,
    GgufFiles,
    Adapters,
    Runs,
)
"""Every edge."""
