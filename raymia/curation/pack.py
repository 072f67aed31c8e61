"""Images to shards: the same input gives the same bytes, and every image that was attempted is accounted for."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel
from rich.console import Console

from raymia.curation.attrition import ATTRITION_SCHEMA, Attrition, analyse, fetch_reason
from raymia.curation.derive import output_folder, write_manifest
from raymia.curation.fetch import fetch
from raymia.curation.inputs import FilePart, ImageFile, Part, ShardPart, fit_keys, parts_of_manifest
from raymia.curation.writing import write_tar
from raymia.data.images import MAX_PIXELS, ImageError, decode_image
from raymia.data.manifest import Label, Manifest, Split, load_manifest
from raymia.data.tar import ShardEnd
from raymia.engine.stage import run_parts
from raymia.errors import ConfigError
from raymia.run.storage import Storage

ATTRITION_FILE = "attrition.parquet"
PLAN_FILE = "pack.json"
"""What a folder's data set is packed from, so that two are not mixed."""
DONE_FOLDER = "attrition"
"""Folder of a table for each part that is done."""
PACKED = b"packed"
"""Metadata of that table: samples and digest of the part's shard."""
CHECKED_PX = 64
"""Images are decoded whole and reduced to this side, to see that they can be."""


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
        name: name of the data set.
        labels: membership by split.
        parts: what goes into each shard; see `raymia.curation.inputs`.
        out: folder or fsspec URL for ``shards/``, ``manifest.yaml`` and ``attrition.parquet``.
        console: where progress is shown.
        facts: further fields of the manifest, such as licence and provenance.
        max_pixels: an image whose header announces more is not packed.

    Returns:
        The manifest, and how many images of each split got how far.

    Raises:
        ConfigError: `out` holds something else, or no image could be packed.
        RaymiaError: a part failed; the same command goes on from there.
    """
    storage = output_folder(out)
    _require_same(storage, name, parts, max_pixels)
    present = set(storage.names(DONE_FOLDER, ".parquet"))
    left = [part for part in parts if _done_name(part) not in present]
    run_parts("pack", left, partial(pack_part, out=out, max_pixels=max_pixels), lambda attempted: attempted, console)
    done = [pq.read_table(io.BytesIO(content)) for content in storage.read_many([_done_name(part) for part in parts])]
    packed: dict[str, dict[str, dict[str, Any]]] = {split: {} for split in labels}
    for part, rows in zip(parts, done, strict=True):
        shard = json.loads(rows.schema.metadata[PACKED])
        if shard["samples"]:
            packed[part.split][_shard_path(part)] = shard
    table = pa.concat_tables(rows.replace_schema_metadata(None) for rows in done)
    storage.write_table(ATTRITION_FILE, table)
    analysis = analyse(table.to_pandas(), {key: None if value == "unknown" else value for key, value in labels.items()})
    splits = []
    for split, label in labels.items():
        shards = packed[split]
        if not shards:
            lost = next((counted.lost for counted in analysis.splits if counted.split == split), {})
            raise ConfigError(f"split {split}: no image could be packed ({', '.join(lost) or 'nothing was attempted'})")
        digests = {path: shard["sha256"] for path, shard in shards.items()}
        samples = sum(shard["samples"] for shard in shards.values())
        splits.append(Split(name=split, member=label, shards=tuple(shards), samples=samples, sha256=digests))
    manifest = Manifest(name=name, attrition=ATTRITION_FILE, splits=tuple(splits), **(facts or {}))
    write_manifest(storage, manifest)
    return manifest, analysis


def pack_manifest(manifest_file: str, name: str | None, out: str, console: Console) -> tuple[Manifest, Attrition]:
    """Pack the samples of a manifest that count; a split that is a list of URLs is fetched into ``OUT/fetched`` first.

    Args:
        manifest_file: see `raymia.data.manifest.load_manifest`.
        name: name of the data set; by default the manifest's.
        out: see `pack`; a local folder where anything is to be fetched.
        console: where progress is shown.

    Raises:
        ConfigError, RaymiaError: see `pack` and `raymia.curation.fetch.fetch`.
    """
    manifest, folder = load_manifest(manifest_file)
    fetched = {}
    for split in manifest.splits:
        if split.source is not None:
            if "://" in out:
                raise ConfigError(f"--out {out}: images are fetched to a local folder; give one, and copy it afterwards")
            fetched[split.name] = str(fetch(split.source, Path(out) / "fetched" / split.name))
    parts = parts_of_manifest(manifest, folder, fetched)
    labels = {split.name: split.member for split in manifest.splits}
    facts = manifest.model_dump(include={"licence", "provenance", "valid_for_models", "fold_captions"})
    return pack(name or manifest.name, labels, parts, out, console, facts)


def pack_part(part: Part, out: str, max_pixels: int) -> int:
    """Write one shard, if any image can be packed, and then the table that says that it is done.

    Args:
        part: what goes into the shard.
        out: folder of the data set.
        max_pixels: an image whose header announces more is not packed.

    Returns:
        How many images were tried.
    """
    storage = Storage(out)
    rows: list[dict[str, Any]] = []
    shard: dict[str, Any] = {"samples": 0, "sha256": None}
    with tempfile.TemporaryFile() as spool:
        packed = _sorted(part, spool, rows, max_pixels) if isinstance(part, ShardPart) else _files(part, rows, max_pixels)
        first = next(packed, None)
        if first is not None:
            with storage.create(_shard_path(part)) as stream:
                shard = _write_shard(stream, itertools.chain([first], packed))
    for row in rows:
        row |= {"split": part.split, "shard": _shard_name(part)}
    table = pa.Table.from_pylist(rows, schema=ATTRITION_SCHEMA)
    storage.write_table(_done_name(part), table.replace_schema_metadata({PACKED: json.dumps(shard)}))
    return len(rows)


@dataclass(frozen=True)
class _Packed:
    """A sample as it goes into a shard."""

    key: str
    extension: str
    content: bytes
    caption: str
    source: str


def _files(part: FilePart, rows: list[dict[str, Any]], max_pixels: int) -> Iterator[_Packed]:
    """The samples of a part of image files; what became of each image is added to `rows`."""
    for file in part.files:
        row: dict[str, Any] = {"key": file.key, "source": file.source}
        rows.append(row)
        try:
            content, caption = _read(file.location), _caption_of(file)
        except (OSError, ValueError) as error:
            row |= {"stage": "read", "reason": "unreadable_file", "detail": str(error)}
            continue
        extension = _checked(content, row, max_pixels)
        if extension is not None:
            yield _Packed(file.key, extension, content, caption, file.source)


def _sorted(part: ShardPart, spool: IO[bytes], rows: list[dict[str, Any]], max_pixels: int) -> Iterator[_Packed]:
    """The samples of a tar by key; what became of each image that was attempted is added to `rows`.

    Sorting makes the shard the same every time: what a downloader wrote stands in the order in which the network answered.

    Args:
        spool: file that holds the images until all are read.
    """
    attempted = {} if part.table is None else _img2dataset_rows(part.table, part.reader.shard.url)
    places: dict[str, tuple[int, int, str, str]] = {}
    outcomes = _not_fetched(attempted)
    for item in part.reader.read():
        if isinstance(item, ShardEnd):
            if item.fault is not None:
                outcomes[""] = {"source": part.reader.shard.url, "stage": "read"}
                outcomes[""] |= {"reason": item.fault.reason, "detail": item.fault.detail}
            continue
        row = {"key": item.key, "source": attempted.get(item.key, {}).get("url") or item.key}
        if item.fault is not None or item.image is None:
            row |= {"stage": "read", "reason": item.fault.reason if item.fault else "no_image"}
            row |= {"detail": item.fault.detail if item.fault else None}
            outcomes.setdefault(item.key, row)
            continue
        outcomes[item.key] = row
        extension = _checked(item.image, row, max_pixels)
        if extension is not None:
            places[item.key] = (spool.tell(), len(item.image), extension, item.caption)
            spool.write(item.image)
    for key in attempted.keys() - outcomes.keys():
        gone = "img2dataset lists it as fetched, but it is not in the tar"
        outcomes[key] = {"key": key, "source": attempted[key]["url"], "stage": "read", "reason": "not_in_tar", "detail": gone}
    names = fit_keys(outcomes.keys() - {""})
    for key, name in names.items():
        outcomes[key]["key"] = name
    rows += [outcomes[key] for key in sorted(outcomes, key=lambda key: names.get(key, ""))]
    for key in sorted(places, key=names.__getitem__):
        start, size, extension, caption = places[key]
        spool.seek(start)
        yield _Packed(names[key], extension, spool.read(size), caption, str(outcomes[key]["source"]))


def _not_fetched(attempted: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows of the images that img2dataset could not fetch, by key."""
    return {
        key: {"key": key, "source": entry["url"], "stage": "fetch", "reason": fetch_reason(entry["error_message"])}
        | {"detail": entry["error_message"]}
        for key, entry in attempted.items()
        if entry["status"] != "success"
    }


def _img2dataset_rows(table: str, shard: str) -> dict[str, dict[str, Any]]:
    """What img2dataset attempted for a shard, by key."""
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
    """The caption that came with a file or stands in the file beside it; empty where there is none."""
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


def _write_shard(stream: BinaryIO, packed: Iterator[_Packed]) -> dict[str, Any]:
    """Write a tar; return its number of samples and its digest."""
    digest = hashlib.sha256()
    samples = write_tar(cast(BinaryIO, _Tee(stream, digest)), ((sample.key, _members(sample)) for sample in packed))
    return {"samples": samples, "sha256": digest.hexdigest()}


def _members(sample: _Packed) -> dict[str, bytes]:
    facts = json.dumps({"caption": sample.caption, "source": sample.source}, ensure_ascii=False)
    return {sample.extension: sample.content, "txt": sample.caption.encode(), "json": facts.encode()}


class _Tee:
    """A stream that takes the digest of what goes through it."""

    def __init__(self, stream: BinaryIO, digest: Any) -> None:
        """Pass what is written on to `stream`, and to `digest` of hashlib."""
        self._stream = stream
        self._digest = digest

    def write(self, content: bytes) -> int:
        self._digest.update(content)
        return self._stream.write(content)


def _require_same(storage: Storage, name: str, parts: Sequence[Part], max_pixels: int) -> None:
    """Refuse to mix two data sets in one folder; remember what this one is made of."""
    content = json.dumps([name, max_pixels, *map(asdict, parts)], default=_plain)
    plan = {"name": name, "parts": len(parts), "sha256": hashlib.sha256(content.encode()).hexdigest()}
    before = storage.read(PLAN_FILE)
    if before is None:
        storage.write(PLAN_FILE, json.dumps(plan).encode())
    elif json.loads(before) != plan:
        raise ConfigError(f"{storage.url}: holds a data set packed from other images or settings; choose another --out")


def _plain(value: Any) -> Any:
    """What JSON has no form for, the same in every process: a shard, or the keys of a selection."""
    return value.model_dump() if isinstance(value, BaseModel) else sorted(value)


def _shard_name(part: Part) -> str:
    return f"{part.split}-{part.number:05d}"


def _shard_path(part: Part) -> str:
    return f"shards/{_shard_name(part)}.tar"


def _done_name(part: Part) -> str:
    return f"{DONE_FOLDER}/{_shard_name(part)}.parquet"
