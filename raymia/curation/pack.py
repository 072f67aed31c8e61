"""Images to shards: the same input gives the same bytes, and every image that was attempted is accounted for."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel
from rich.console import Console

from raymia.curation.attrition import ATTRITION_SCHEMA, LISTED, Attrition, analyse, remarks
from raymia.curation.derive import output_folder, write_manifest
from raymia.curation.fetch import fetch
from raymia.curation.folders import PLAN_FILE, SHARDS_FOLDER
from raymia.curation.inputs import parts_of_manifest
from raymia.curation.parts import DroppedPart, Part, Parts, ShardPart, dropped_rows
from raymia.curation.samples import Row, file_samples, lost, named, shard_samples
from raymia.curation.writing import write_shard
from raymia.data.images import MAX_PIXELS
from raymia.data.manifest import Label, Manifest, Split, known, load_manifest
from raymia.data.tar import Fault
from raymia.documents import DocumentError, parse_json
from raymia.engine.stage import run_parts
from raymia.errors import ConfigError, first_line
from raymia.run.storage import Storage

ATTRITION_FILE = "attrition.parquet"
DONE_FOLDER = "attrition"
"""Folder of a table for each part that is done."""
PACKED = b"packed"
"""Metadata of that table: samples and digest of the part's shard."""


def pack(
    name: str,
    labels: dict[str, Label],
    parts: Parts,
    out: str,
    console: Console,
    facts: dict[str, Any] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> tuple[Manifest, Attrition]:
    """Pack images into shards, with a manifest and a table of what became of each image.

    Args:
        name: name of the data set.
        labels: membership by split.
        parts: what goes into each shard, and what goes into none; see `raymia.curation.inputs`.
        out: folder or fsspec URL for ``shards/``, ``manifest.yaml`` and ``attrition.parquet``.
        console: where progress is shown, and what is easily overlooked in the sources.
        facts: further fields of the manifest, such as licence and provenance.
        max_pixels: an image whose header announces more is not packed.

    Returns:
        The manifest, and how many images of each split got how far.

    Raises:
        ConfigError: `out` holds something else, or no image could be packed.
        RaymiaError: a part failed; the same command goes on from there.
    """
    storage = output_folder(out)
    to_do = [part for part in parts if not isinstance(part, DroppedPart)]
    _require_same(storage, name, to_do, max_pixels)
    present = _present(storage)
    left = [part for part in to_do if not _is_done(part, storage, present)]
    run_parts("pack", left, partial(pack_part, out=out, max_pixels=max_pixels), lambda attempted: attempted, console)
    contents = storage.read_many([_done_name(part) for part in to_do])
    done = [_done_table(storage, part, content) for part, content in zip(to_do, contents, strict=True)]
    packed: dict[str, dict[str, dict[str, Any]]] = {split: {} for split in labels}
    for part, (_, shard) in zip(to_do, done, strict=True):
        if shard["samples"]:
            packed[part.split][_shard_path(part)] = shard
    table = pa.concat_tables([*(rows for rows, _ in done), _dropped_table(parts)])
    storage.write_table(ATTRITION_FILE, table)
    for line in remarks(table):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    analysis = analyse(table.to_pandas(), {split: known(label) for split, label in labels.items()})
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
    facts = manifest.model_dump(include={"licence", "provenance", "valid_for_models", "fold_captions", "claims"})
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
    rows: list[Row] = []
    shard: dict[str, Any] = {"samples": 0, "sha256": None}
    with tempfile.TemporaryFile() as spool:
        if isinstance(part, ShardPart):
            packed = shard_samples(part, spool, rows, max_pixels)
        else:
            packed = file_samples(part, rows, max_pixels)
        first = next(packed, None)
        if first is not None:
            with storage.create(_shard_path(part)) as stream:
                shard = write_shard(stream, itertools.chain([first], packed))
    for row in rows:
        row |= {"split": part.split, "shard": _shard_name(part)}
    table = pa.Table.from_pylist(rows, schema=ATTRITION_SCHEMA)
    storage.write_table(_done_name(part), table.replace_schema_metadata({PACKED: json.dumps(shard)}))
    return sum(row.get("stage") != LISTED for row in rows)


def _require_same(storage: Storage, name: str, parts: Sequence[Part], max_pixels: int) -> None:
    """Refuse to mix two data sets in one folder; remember what this one is made of."""
    content = json.dumps([name, max_pixels, *(asdict(part, dict_factory=_fields) for part in parts)], default=_plain)
    plan = {"name": name, "parts": len(parts), "sha256": hashlib.sha256(content.encode()).hexdigest()}
    before = storage.read(PLAN_FILE)
    if before is None:
        storage.write(PLAN_FILE, json.dumps(plan).encode())
        return
    try:
        known = parse_json(before)
    except DocumentError as error:
        raise ConfigError(f"{storage.url}/{PLAN_FILE}: {error}; remove the folder, or choose another --out") from error
    if known != plan:
        raise ConfigError(f"{storage.url}: holds a data set packed from other images or settings; choose another --out")


def _present(storage: Storage) -> set[str]:
    """Tables of parts that are done, and shards."""
    return {*storage.names(DONE_FOLDER, ".parquet"), *storage.names(SHARDS_FOLDER, ".tar")}


def _is_done(part: Part, storage: Storage, present: set[str]) -> bool:
    """Whether a part need not be packed again: its table is there, and so is the shard that this names."""
    if _done_name(part) not in present:
        return False
    if _shard_path(part) in present:
        return True
    (content,) = storage.read_many([_done_name(part)])
    return not _done_table(storage, part, content)[1]["samples"]


def _done_table(storage: Storage, part: Part, content: bytes) -> tuple[pa.Table, dict[str, Any]]:
    """The rows of a part that is done, and what is known of its shard."""
    try:
        rows = pq.read_table(io.BytesIO(content), schema=ATTRITION_SCHEMA)
        shard = parse_json(pq.read_schema(io.BytesIO(content)).metadata[PACKED])
        return rows.replace_schema_metadata(None), {"samples": int(shard["samples"]), "sha256": shard["sha256"]}
    except Exception as error:  # noqa: BLE001 - what a damaged file makes pyarrow raise is anybody's guess
        damaged = f"{storage.url}/{_done_name(part)}: is damaged ({first_line(error)})"
    raise ConfigError(f"{damaged}; remove it, and run the same command again")


def _dropped_table(parts: Parts) -> pa.Table:
    rows = [
        {"split": split, "source": named(row.source)} | lost(row.stage, Fault(row.reason, row.detail))
        for split, row in dropped_rows(parts)
    ]
    return pa.Table.from_pylist(rows, schema=ATTRITION_SCHEMA)


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Fields of a part, without the facts of an image that has none: a folder begun without them goes on."""
    return {name: value for name, value in pairs if name != "facts" or value}


def _plain(value: Any) -> Any:
    """What JSON has no form for, the same in every process: a shard, or the keys of a selection."""
    return value.model_dump() if isinstance(value, BaseModel) else sorted(value)


def _shard_name(part: Part) -> str:
    return f"{part.split}-{part.number:05d}"


def _shard_path(part: Part) -> str:
    return f"{SHARDS_FOLDER}/{_shard_name(part)}.tar"


def _done_name(part: Part) -> str:
    return f"{DONE_FOLDER}/{_shard_name(part)}.parquet"
