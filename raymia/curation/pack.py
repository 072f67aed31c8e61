"""Images to shards: the same input gives the same bytes, and every image that was attempted is accounted for."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from rich.console import Console

from raymia.curation.attrition import SCHEMA, Attrition, analyse, fetch_reason
from raymia.curation.inputs import FilePart, ImageFile, Part, ShardPart
from raymia.curation.stage import run_parts
from raymia.data.images import ImageError, decode_image
from raymia.data.manifest import Manifest, Split
from raymia.data.tar import ShardEnd
from raymia.errors import ConfigError
from raymia.scan.storage import Storage, without_secrets

MANIFEST_FILE = "manifest.yaml"
ATTRITION_FILE = "attrition.parquet"
PLAN_FILE = "pack.json"
PER_SHARD = 1000
MAX_PIXELS = 64_000_000
CHECKED_PX = 64
"""Images are decoded whole and reduced to this side, to see that they can be."""

Label = bool | Literal["unknown"]


@dataclass(frozen=True)
class PackedShard:
    """A part that is done.

    Attributes:
        path: of the shard within the output; none where no image could be packed.
        samples: in the shard.
        attempted: images that were to go there.
    """

    split: str
    number: int
    path: str | None
    samples: int
    attempted: int
    sha256: str | None


def pack(
    name: str,
    labels: dict[str, Label],
    parts: Sequence[Part],
    out: str,
    console: Console,
    facts: dict[str, Any] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> tuple[Manifest, Attrition]:
    """Pack images into shards, with a manifest and a table of what became of each image.

    Args:
        name: of the data set.
        labels: membership by split.
        parts: see `raymia.curation.inputs`.
        out: folder or fsspec URL for ``shards/``, ``manifest.yaml`` and ``attrition.parquet``.
        facts: further fields of the manifest, such as licence and provenance.
        max_pixels: an image whose header announces more is not packed.

    Raises:
        ConfigError: `out` holds something else, or no image could be packed.
        RaymiaError: a part failed; the same command goes on from there.
    """
    storage = Storage(out)
    _require_same(storage, name, parts, max_pixels)
    done = {(part.split, part.number): found for part in parts if (found := _read_done(storage, part)) is not None}
    left = [part for part in parts if (part.split, part.number) not in done]
    work = partial(pack_part, out=out, max_pixels=max_pixels)
    for shard in run_parts("pack", left, work, lambda shard: shard.attempted, console):
        done[shard.split, shard.number] = shard
    shards = [done[part.split, part.number] for part in parts]
    table = pa.concat_tables(_attrition(storage, part) for part in parts)
    storage.write(ATTRITION_FILE, _parquet(table))
    analysis = analyse(table.to_pandas(), {key: None if value == "unknown" else value for key, value in labels.items()})
    splits = []
    for split, label in labels.items():
        mine = [shard for shard in shards if shard.split == split and shard.path is not None]
        if not mine:
            lost = next((found.lost for found in analysis.splits if found.split == split), {})
            raise ConfigError(f"split {split}: no image could be packed ({', '.join(lost) or 'nothing was attempted'})")
        paths = {str(shard.path): shard for shard in mine}
        digests = {path: str(shard.sha256) for path, shard in paths.items()}
        samples = sum(shard.samples for shard in mine)
        splits.append(Split(name=split, member=label, shards=tuple(paths), samples=samples, sha256=digests))
    manifest = Manifest(name=name, attrition=ATTRITION_FILE, splits=tuple(splits), **(facts or {}))
    write_manifest(storage, manifest)
    return manifest, analysis


def write_manifest(storage: Storage, manifest: Manifest) -> None:
    """Write a manifest as `manifest.yaml`, without the fields that say nothing."""
    content = manifest.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    storage.write(MANIFEST_FILE, yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode())


def pack_part(part: Part, out: str, max_pixels: int) -> PackedShard:
    """Write one shard, and then the table that says that it is done."""
    storage = Storage(out)
    path = f"shards/{part.split}-{part.number:05d}.tar"
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryFile() as spool:
        packed = _sorted(part, spool, rows, max_pixels) if isinstance(part, ShardPart) else _files(part, rows, max_pixels)
        first = next(packed, None)
        digest, samples = None, 0
        if first is not None:
            with storage.create(path) as stream:
                digest, samples = _write_tar(stream, first, packed)
    for row in rows:
        row |= {"split": part.split, "shard": f"{part.split}-{part.number:05d}"}
    done = PackedShard(part.split, part.number, path if samples else None, samples, len(rows), digest)
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    facts = json.dumps({"path": done.path, "samples": samples, "sha256": digest})
    storage.write(_done_name(part), _parquet(table.replace_schema_metadata({"packed": facts})))
    return done


@dataclass(frozen=True)
class _Packed:
    key: str
    extension: str
    content: bytes
    caption: str
    source: str


def _files(part: FilePart, rows: list[dict[str, Any]], max_pixels: int) -> Iterator[_Packed]:
    for file in part.files:
        row: dict[str, Any] = {"key": file.key, "source": file.source}
        rows.append(row)
        try:
            content, caption = _read(file.location), _caption_of(file)
        except (OSError, ValueError) as error:
            row |= {"stage": "read", "reason": "unreadable_file", "detail": str(error)}
            continue
        found = _checked(content, row, max_pixels)
        if found is not None:
            yield _Packed(file.key, found, content, caption, file.source)


def _sorted(part: ShardPart, spool: IO[bytes], rows: list[dict[str, Any]], max_pixels: int) -> Iterator[_Packed]:
    """The samples of a tar by key: what a downloader wrote stands in the order in which the network answered."""
    attempted = {} if part.table is None else _img2dataset_rows(part.table, part.reader.shard.url)
    places: dict[str, tuple[int, int, str, str]] = {}
    found: dict[str, dict[str, Any]] = {
        key: {"key": key, "source": entry["url"], "stage": "fetch", "reason": fetch_reason(entry["error_message"])}
        | {"detail": entry["error_message"]}
        for key, entry in attempted.items()
        if entry["status"] != "success"
    }
    for item in part.reader.read():
        if isinstance(item, ShardEnd):
            if item.fault is not None:
                found[""] = {"source": part.reader.shard.url, "stage": "read"}
                found[""] |= {"reason": item.fault.reason, "detail": item.fault.detail}
            continue
        row = {"key": item.key, "source": attempted.get(item.key, {}).get("url") or item.key}
        if item.fault is not None or item.image is None:
            row |= {"stage": "read", "reason": item.fault.reason if item.fault else "no_image"}
            row |= {"detail": item.fault.detail if item.fault else None}
            found.setdefault(item.key, row)
            continue
        found[item.key] = row
        extension = _checked(item.image, row, max_pixels)
        if extension is not None:
            places[item.key] = (spool.tell(), len(item.image), extension, item.caption)
            spool.write(item.image)
    for key in attempted.keys() - found.keys():
        gone = "img2dataset lists it as fetched, but it is not in the tar"
        found[key] = {"key": key, "source": attempted[key]["url"], "stage": "read", "reason": "not_in_tar", "detail": gone}
    rows += [found[key] for key in sorted(found)]
    for key in sorted(places):
        start, size, extension, caption = places[key]
        spool.seek(start)
        yield _Packed(key, extension, spool.read(size), caption, str(found[key]["source"]))


def _img2dataset_rows(table: str, shard: str) -> dict[str, dict[str, Any]]:
    try:
        with fsspec.open(table, "rb") as stream:
            rows = pq.read_table(stream, columns=["key", "url", "status", "error_message"]).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ConfigError(f"{table}: not img2dataset's table beside {shard} ({error}); move it away, or fetch again") from error
    return {str(row["key"]): row for row in rows}


def _checked(content: bytes, row: dict[str, Any], max_pixels: int) -> str | None:
    """The extension of an image that decodes; none, and why in `row`, for one that does not."""
    try:
        return decode_image(content, CHECKED_PX, max_pixels).extension
    except ImageError as error:
        row |= {"stage": "decode", "reason": error.reason, "detail": error.detail}
        return None


def _caption_of(file: ImageFile) -> str:
    if file.caption is not None or file.side_car is None:
        return file.caption or ""
    text = _read(file.side_car).decode("utf-8", "replace")
    if not file.side_car.endswith(".json"):
        return text.strip()
    content = json.loads(text)
    caption = content.get("caption") if isinstance(content, dict) else None
    return caption.strip() if isinstance(caption, str) else ""


def _read(location: str) -> bytes:
    with fsspec.open(location, "rb") as stream:
        content: bytes = stream.read()
    return content


def _write_tar(stream: BinaryIO, first: _Packed, rest: Iterator[_Packed]) -> tuple[str, int]:
    digest, samples = hashlib.sha256(), 0
    tee = _Tee(stream, digest)
    with tarfile.open(fileobj=cast(Any, tee), mode="w|", format=tarfile.GNU_FORMAT) as tar:
        for sample in _chain(first, rest):
            samples += 1
            facts = json.dumps({"caption": sample.caption, "source": sample.source}, ensure_ascii=False)
            files = {sample.extension: sample.content, "txt": sample.caption.encode(), "json": facts.encode()}
            for extension, content in files.items():
                entry = tarfile.TarInfo(f"{sample.key}.{extension}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return digest.hexdigest(), samples


def _chain(first: _Packed, rest: Iterator[_Packed]) -> Iterator[_Packed]:
    yield first
    yield from rest


class _Tee:
    """A stream that takes the digest of what goes through it."""

    def __init__(self, stream: BinaryIO, digest: Any) -> None:
        self._stream = stream
        self._digest = digest

    def write(self, content: bytes) -> int:
        self._digest.update(content)
        return self._stream.write(content)


def _require_same(storage: Storage, name: str, parts: Sequence[Part], max_pixels: int) -> None:
    """Refuse to mix two data sets in one folder; remember what this one is made of."""
    content = repr([name, max_pixels, *parts])
    plan = {"name": name, "parts": len(parts), "sha256": hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()}
    before = storage.read(PLAN_FILE)
    if before is not None and json.loads(before) != plan:
        raise ConfigError(f"{storage.url}: holds a data set packed from other images or settings; choose another --out")
    if before is None:
        try:
            storage.make()
        except (OSError, ValueError) as error:
            raise ConfigError(f"--out {storage.url}: cannot be made ({error})") from error
        storage.write(PLAN_FILE, json.dumps(without_secrets(plan)).encode())


def _read_done(storage: Storage, part: Part) -> PackedShard | None:
    content = storage.read(_done_name(part))
    if content is None:
        return None
    table = pq.read_table(io.BytesIO(content))
    facts = json.loads(table.schema.metadata[b"packed"])
    return PackedShard(part.split, part.number, facts["path"], facts["samples"], len(table), facts["sha256"])


def _attrition(storage: Storage, part: Part) -> pa.Table:
    return pq.read_table(io.BytesIO(storage.read(_done_name(part)) or b"")).replace_schema_metadata(None)


def _done_name(part: Part) -> str:
    return f"attrition/{part.split}-{part.number:05d}.parquet"


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table.combine_chunks(), buffer, compression="zstd")
    return buffer.getvalue()


def out_folder(out: str) -> Path:
    """A local output folder.

    Raises:
        ConfigError: it is a URL.
    """
    if "://" in out:
        raise ConfigError(f"--out {out}: images are fetched to a local folder first; give one, and copy it afterwards")
    return Path(out)
