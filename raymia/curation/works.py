"""The works that an owner brings, one by one: the image file, and what stands beside it in a table, a JSON or a list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from raymia.curation.fetch import read_urls
from raymia.curation.inputs import find_parts
from raymia.curation.listed import IMAGE_COLUMN, PATH_COLUMNS, folder_of, holds_images
from raymia.curation.names import keys_of
from raymia.curation.parts import DroppedPart, FilePart, ImageFile, Part, ShardPart, dropped_rows
from raymia.curation.perceptual import hashes_of, written_hash
from raymia.curation.samples import contents_of, named, read_or_fault
from raymia.curation.ways import SIZES, digest_texts
from raymia.data.captions import MAX_TEXT_BYTES
from raymia.data.delimited import TableError
from raymia.data.manifest import Manifest, load_manifest, within
from raymia.data.selection import ShardReader, shard_readers
from raymia.data.tables import is_table, read_columns, table_batches, text_of
from raymia.data.tar import Fault, ShardEnd
from raymia.documents import DocumentError, parse_json
from raymia.errors import ConfigError
from raymia.shipped import NAMED
from raymia.urls import public

PER_PART = 1000
"""Images of a folder or a table that are listed together."""
MAX_FACT = 2**15
"""Characters of a fact; a longer text is none."""
FACTS = {
    "url": ("url", "image_url", "img_url"),
    "sha256": ("sha256", "image_sha256"),
    "md5": ("md5", "image_md5"),
    "phash": ("phash", "image_phash"),
    "key": ("key",),
    "published": ("published",),
    "published_at": ("published_at",),
    "reserved": ("reserved",),
}
"""What may be known of a work, with the names, in lower case, of columns and fields that say so, the first counting."""
PATH = "path"
"""The fact that says where a row's image is."""
MAYBE_URL = ("source",)
"""Fields of a JSON that hold the work's URL where they hold one: `raymia data pack` writes it there."""


@dataclass(frozen=True)
class Work:
    """One work.

    Attributes:
        key: of the sample; distinct within a shard or a table.
        source: the name by which the user knows it, without secrets.
        content: the image file, or why it cannot be read; none where there is no image or it was not asked for.
        facts: texts by name, of those in `FACTS`.
        place: split and shard of a manifest that it stands in; none elsewhere.
    """

    key: str
    source: str
    content: bytes | Fault | None
    facts: Mapping[str, str]
    place: tuple[str, str] | None = None


@dataclass(frozen=True)
class Works:
    """Where works are, before any is read.

    Attributes:
        source: a manifest, a folder of images, tars or img2dataset's output, or a table.
        url_column: column or field that holds the URLs; none for the usual names.
    """

    source: str
    url_column: str | None = None

    def read(self, with_images: bool) -> Iterator[Work]:
        """Every work once, in the order of the source; whatever is wrong with one is a `Fault` in place of its image.

        Args:
            with_images: whether to read the images.

        Raises:
            ConfigError: the source cannot be used.
        """
        if self.source.lower().endswith((".yaml", ".yml")) or self.source in NAMED.names():
            yield from self._of_manifest(*load_manifest(self.source), with_images)
        elif is_table(self.source):
            yield from self._of_table(with_images)
        else:
            parts = find_parts("works", self.source, None, PER_PART)
            for part in parts:
                if not isinstance(part, DroppedPart):
                    yield from self._of_part(part, with_images)
            lost = [row for _, row in dropped_rows(parts) if row.stage != "list"]
            yield from (Work(row.source, named(row.source), Fault(row.reason, row.detail), {}) for row in lost)

    def _of_manifest(self, manifest: Manifest, folder: str, with_images: bool) -> Iterator[Work]:
        packed = manifest.model_copy(update={"splits": tuple(split for split in manifest.splits if split.source is None)})
        for reader in shard_readers(packed, folder) if packed.splits else ():
            yield from (replace(work, place=reader.place) for work in self._of_shard(reader, {}, with_images))
        for split in manifest.splits:
            if split.source is not None:
                urls = [str(url) for url in read_urls(split.source)["url"]]
                for key, url in zip(keys_of(urls), urls, strict=True):
                    yield Work(key, named(url), None, {"url": url})

    def _of_part(self, part: Part, with_images: bool) -> Iterator[Work]:
        if isinstance(part, ShardPart):
            yield from self._of_shard(part.reader, self._beside(part.table), with_images)
        elif with_images:
            yield from (self._of_file(file, content) for file, content in contents_of(part))
        else:
            yield from (self._of_file(file, None) for file in part.files)

    def _of_file(self, file: ImageFile, content: bytes | Fault | None) -> Work:
        facts: Mapping[str, str] = {}
        for location in file.side_cars:
            if location.lower().endswith(".json"):
                text = read_or_fault(location, MAX_TEXT_BYTES)
                facts = self._in_json(text) if isinstance(text, bytes) else {}
        return Work(file.key, named(file.source), content, facts)

    def _of_shard(self, reader: ShardReader, beside: dict[str, dict[str, str]], with_images: bool) -> Iterator[Work]:
        """The samples of a tar, and those that img2dataset's table beside it has and the tar has not."""
        place, met = "/".join(reader.place), set()
        for item in reader.read(with_images=with_images):
            if isinstance(item, ShardEnd):
                if item.fault is not None:
                    yield Work(place, named(reader.shard.url), item.fault, {})
                continue
            met.add(item.key)
            content = item.fault or (item.image if with_images else None)
            yield Work(
                item.key, named(f"{place}/{item.key}"), content, {**self._in_json(item.facts), **beside.get(item.key, {})}
            )
        for key, facts in beside.items():
            if key not in met:
                yield Work(key, named(f"{place}/{key}"), Fault("not_in_tar", "img2dataset lists it; the tar has it not"), facts)

    def _beside(self, table: str | None) -> dict[str, dict[str, str]]:
        """Facts by key, of the table beside a tar; none where that is another's."""
        columns = {} if table is None else self._columns(read_columns(table, "table"))
        if table is None or "key" not in columns:
            return {}
        return {facts["key"]: facts for facts in _rows(table, columns) if "key" in facts}

    def _of_table(self, with_images: bool) -> Iterator[Work]:
        """The rows of a table; of one that names images or holds them, with these."""
        schema = read_columns(self.source, "works")
        columns = self._columns(schema)
        path, holds = _path_column(schema), _holds_images(schema, self.source)
        if not columns and path is None and not holds:
            known = ", ".join(dict.fromkeys(name for names in FACTS.values() for name in names))
            raise ConfigError(
                f"works {public(self.source)}: expected a column {', '.join(PATH_COLUMNS)} or one of {known}; "
                f"it has {', '.join(schema.names)}"
            )
        wanted = columns | ({PATH: path} if path is not None and not holds else {})
        rows = list(_rows(self.source, wanted))
        names = [facts.get("key") or facts.get(PATH) or facts.get("url") or f"row-{i:08d}" for i, facts in enumerate(rows)]
        folder = folder_of(self.source)
        files = [
            ImageFile(within(folder, facts[PATH]) if PATH in facts else "", name, key, "", row=number)
            for number, (facts, name, key) in enumerate(zip(rows, names, keys_of(names), strict=True))
        ]
        pairs: Iterator[tuple[ImageFile, bytes | Fault | None]] = ((file, None) for file in files)
        if with_images and (holds or path is not None):
            pairs = iter(contents_of(FilePart("works", 0, tuple(files), self.source if holds else None)))
        for (file, content), facts in zip(pairs, rows, strict=True):
            unnamed = path is not None and not holds and PATH not in facts
            lost = Fault("no_file_named", "the row names no file") if unnamed and with_images else None
            yield Work(facts.get("key", file.key), named(file.source), lost or content, facts)

    def _columns(self, schema: pa.Schema) -> dict[str, str]:
        """The column of each fact that a table has.

        Raises:
            ConfigError: it lacks the one that was named for URLs.
        """
        lower = {name.lower(): name for name in reversed(schema.names)}
        found = {fact: lower[name] for fact, names in FACTS.items() for name in reversed(names) if name in lower}
        if self.url_column is not None:
            found.pop("url", None)
        if self.url_column is not None and self.url_column in schema.names:
            found["url"] = self.url_column
        elif self.url_column is not None and is_table(self.source):
            raise ConfigError(
                f"works {public(self.source)}: no column {self.url_column}, which --url-column names; "
                f"it has {', '.join(schema.names)}"
            )
        return found

    def _in_json(self, content: bytes) -> dict[str, str]:
        """The facts in a JSON beside an image, which may be anything."""
        if not content.strip():
            return {}
        try:
            fields: Any = parse_json(content, strict=False)
        except DocumentError:
            return {}
        if not isinstance(fields, dict):
            return {}
        texts = {str(name): _plain(str(name), value) for name, value in fields.items() if isinstance(value, str | int)}
        lower = {name.lower(): value for name, value in reversed(texts.items())}
        found = {fact: lower[name] for fact, names in FACTS.items() for name in reversed(names) if name in lower}
        if self.url_column is not None:
            found.pop("url", None)
            found |= {"url": texts[self.url_column]} if self.url_column in texts else {}
        for name in MAYBE_URL if self.url_column is None else ():
            if "url" not in found and lower.get(name, "").lower().startswith(("http://", "https://")):
                found["url"] = lower[name]
        return {fact: value for fact, value in found.items() if value and len(value) <= MAX_FACT}


def _rows(table: str, columns: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The facts in each row of a table, by the columns that hold them; those that are missing, empty or far too long left out.

    Raises:
        ConfigError: the table cannot be read, or a column holds no text.
    """
    chosen = list(dict.fromkeys(columns.values()))
    for batch in table_batches(table, chosen or read_columns(table, "table").names[:1], "table"):
        texts = {fact: _texts(table, fact, column, batch) for fact, column in columns.items()}
        for number in range(batch.num_rows):
            row = {fact: values[number] for fact, values in texts.items()}
            yield {fact: value for fact, value in row.items() if value and len(value) <= MAX_FACT}


def _texts(table: str, fact: str, column: str, batch: pa.RecordBatch) -> list[str | None]:
    values = batch.column(column)
    try:
        if fact == "phash" and pa.types.is_integer(values.type):
            hashes, there = hashes_of(values)
            return [written_hash(int(value)) if known else None for value, known in zip(hashes, there, strict=True)]
        texts: list[str | None] = (digest_texts(fact, values) if fact in SIZES else text_of(column, values)).to_pylist()
    except TableError as error:
        raise ConfigError(f"table {public(table)}: {error}") from error
    return texts


def _plain(name: str, value: str | int) -> str:
    """A field of a JSON as text; a perceptual hash that is a whole number by its hexadecimal digits."""
    is_hash = name.lower() in FACTS["phash"] and isinstance(value, int) and -(2**63) <= value < 2**64
    return written_hash(int(value)) if is_hash else str(value)


def _path_column(schema: pa.Schema) -> str | None:
    """The column that names files."""
    return next((name for name in PATH_COLUMNS if name in schema.names), None)


def _holds_images(schema: pa.Schema, source: str) -> bool:
    return IMAGE_COLUMN in schema.names and holds_images(schema.field(IMAGE_COLUMN).type, source)
