"""The works that an owner brings, one by one: the image file, and what stands beside it in a table, a JSON or a list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from raymia.curation.fetch import read_urls
from raymia.curation.inputs import find_parts, manifest_at
from raymia.curation.listed import CAPTION_COLUMNS, IMAGE_COLUMN, PATH_COLUMNS, folder_of, holds_images
from raymia.curation.names import keys_of
from raymia.curation.parts import DroppedPart, FilePart, ImageFile, Part, ShardPart, dropped_rows
from raymia.curation.samples import caption_of_file, contents_of, named, told_beside, told_in
from raymia.curation.told import FACTS, facts_in_rows, names_in
from raymia.data.captions import caption_of
from raymia.data.manifest import Manifest, within
from raymia.data.selection import ShardReader, shard_readers
from raymia.data.tables import is_table, read_columns
from raymia.data.tar import Fault, ShardEnd
from raymia.errors import ConfigError
from raymia.urls import public

PER_PART = 1000
"""Images of a folder or a table that are listed together."""
PATH, CAPTION = "path", "caption"
"""What is read of a table beside facts: where a row's image is, and its caption."""


@dataclass(frozen=True)
class Work:
    """One work.

    Attributes:
        key: of the sample; distinct within a shard or a table.
        source: the name by which the user knows it, without secrets; with the key, it is that of no other work.
        content: the image file, or why it cannot be read; none where there is no image or it was not asked for.
        facts: texts by name, of those in `raymia.curation.told.FACTS`.
        place: split and shard of a manifest that it stands in; none elsewhere.
        told_fault: why what stands beside it cannot be read; none where it can, or nothing does.
        caption: empty where there is none, or it was not asked for.
    """

    key: str
    source: str
    content: bytes | Fault | None
    facts: Mapping[str, str]
    place: tuple[str, str] | None = None
    told_fault: Fault | None = None
    caption: str = ""


@dataclass(frozen=True)
class Works:
    """Where works are, before any is read.

    Attributes:
        source: a manifest, with ``#SPLIT`` for one of its splits; a folder of images, tars or img2dataset's output; or a table.
        url_column: column or field that holds the URLs; none for the usual names.
    """

    source: str
    url_column: str | None = None

    def read(self, with_images: bool, with_captions: bool = False) -> Iterator[Work]:
        """Every work once, in the order of the source; whatever is wrong with one is a `Fault` in place of its image.

        Args:
            with_images: whether to read the images.
            with_captions: whether to read captions that stand in files of their own, or in a table.

        Raises:
            ConfigError: the source cannot be used.
        """
        found = manifest_at(self.source)
        if found is not None:
            yield from self._of_manifest(*found, with_images)
        elif is_table(self.source):
            yield from self._of_table(with_images)
        else:
            parts = find_parts("works", self.source, None, PER_PART)
            for part in parts:
                if not isinstance(part, DroppedPart):
                    yield from self._of_part(part, with_images, with_captions)
            lost = [row for _, row in dropped_rows(parts) if row.stage != "list"]
            yield from (Work(row.source, named(row.source), Fault(row.reason, row.detail), {}) for row in lost)

    def _of_manifest(self, manifest: Manifest, folder: str, wanted: Sequence[str], with_images: bool) -> Iterator[Work]:
        packed = manifest.model_copy(update={"splits": tuple(split for split in manifest.splits if split.source is None)})
        # Of all splits: a selection names samples of each.
        readers = shard_readers(packed, folder) if packed.splits else []
        for reader in (reader for reader in readers if reader.shard.split in wanted):
            name = "/".join(reader.place)
            yield from (replace(work, place=reader.place) for work in self._of_shard(reader, name, {}, with_images))
        for split in manifest.splits:
            if split.source is not None and split.name in wanted:
                urls = [str(url) for url in read_urls(split.source)["url"]]
                for key, url in zip(keys_of(urls), urls, strict=True):
                    yield Work(key, named(url), None, {"url": url})

    def _of_part(self, part: Part, with_images: bool, with_captions: bool) -> Iterator[Work]:
        if isinstance(part, ShardPart):
            url = part.reader.shard.url
            name = url.removeprefix(self.source.rstrip("/") + "/").removesuffix(".tar")
            yield from self._of_shard(part.reader, name, self._beside(part.table), with_images)
        elif with_images:
            yield from (self._of_file(file, content, with_captions) for file, content in contents_of(part))
        else:
            yield from (self._of_file(file, None, with_captions) for file in part.files)

    def _of_file(self, file: ImageFile, content: bytes | Fault | None, with_caption: bool) -> Work:
        facts, fault = told_beside(file, self.url_column)
        caption = caption_of_file(file).text if with_caption else ""
        return Work(file.key, named(file.source), content, facts, told_fault=fault, caption=caption)

    def _of_shard(self, reader: ShardReader, name: str, beside: dict[str, dict[str, str]], with_images: bool) -> Iterator[Work]:
        """The samples of a tar, and those that img2dataset's table beside it has and the tar has not."""
        met: set[str] = set()
        for item in reader.read(with_images=with_images):
            if isinstance(item, ShardEnd):
                if item.fault is not None:
                    yield Work(name, named(reader.shard.url), item.fault, {})
                continue
            met.add(item.key)
            content = item.fault or (item.image if with_images else None)
            facts, fault = told_in(item.facts, self.url_column)
            facts |= beside.get(item.key, {})
            yield Work(item.key, named(f"{name}/{item.key}"), content, facts, told_fault=fault, caption=item.caption)
        for key, facts in beside.items():
            if key not in met:
                yield Work(key, named(f"{name}/{key}"), Fault("not_in_tar", "img2dataset lists it; the tar has it not"), facts)

    def _beside(self, table: str | None) -> dict[str, dict[str, str]]:
        """Facts by key, of the table beside a tar; none where that is another's."""
        columns = {} if table is None else self._columns(read_columns(table, "table"))
        if table is None or "key" not in columns:
            return {}
        return {facts["key"]: facts for facts in facts_in_rows(table, columns) if "key" in facts}

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
        caption = next((name for name in CAPTION_COLUMNS if name in schema.names), None)
        wanted = columns | ({PATH: path} if path is not None and not holds else {})
        wanted |= {CAPTION: caption} if caption is not None and (holds or path is not None) else {}
        rows = list(facts_in_rows(self.source, wanted))
        names = [facts.get("key") or facts.get(PATH) or facts.get("url") or f"row-{i:08d}" for i, facts in enumerate(rows)]
        folder = folder_of(self.source)
        files = [
            ImageFile(within(folder, facts[PATH]) if PATH in facts else "", name, key, "", row=number)
            for number, (facts, name, key) in enumerate(zip(rows, names, keys_of(names), strict=True))
        ]
        pairs: Iterator[tuple[ImageFile, bytes | Fault | None]] = ((file, None) for file in files)
        if with_images and (holds or path is not None):
            pairs = iter(contents_of(FilePart("works", 0, tuple(files), self.source if holds else None)))
        # A key that several rows have is the name of none of them.
        counts = Counter(facts.get("key") for facts in rows)
        for (file, content), facts in zip(pairs, rows, strict=True):
            unnamed = path is not None and not holds and PATH not in facts
            lost = Fault("no_file_named", "the row names no file") if unnamed and with_images else None
            key = facts.get("key", file.key)
            own = key if counts[key] == 1 else file.key
            of_work = {name: value for name, value in facts.items() if name in FACTS}
            yield Work(own, named(file.source), lost or content, of_work, caption=caption_of(facts.get(CAPTION)).text)

    def _columns(self, schema: pa.Schema) -> dict[str, str]:
        """The column of each fact that a table has.

        Raises:
            ConfigError: it lacks the one that was named for URLs.
        """
        found = names_in(schema.names)
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


def _path_column(schema: pa.Schema) -> str | None:
    """The column that names files."""
    return next((name for name in PATH_COLUMNS if name in schema.names), None)


def _holds_images(schema: pa.Schema, source: str) -> bool:
    return IMAGE_COLUMN in schema.names and holds_images(schema.field(IMAGE_COLUMN).type, source)
