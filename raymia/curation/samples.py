"""The samples of one part as they go into a shard, and a row for every image that was attempted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from raymia.curation.attrition import LISTED, fetch_reason
from raymia.curation.folders import irregular, printable
from raymia.curation.listed import IMAGE_COLUMN
from raymia.curation.names import extension_of, fit_keys
from raymia.curation.parts import FilePart, ImageFile, ShardPart
from raymia.curation.told import UNREADABLE, ToldError, facts_in_json, kept
from raymia.data.captions import CAPTION_UNREADABLE, MAX_TEXT_BYTES, Caption, caption_beside, caption_of
from raymia.data.delimited import TableError
from raymia.data.images import ImageError, decode_image
from raymia.data.members import SHARD_LIMITS
from raymia.data.remote import UnreadableError, read_file
from raymia.data.tables import parquet_rows, read_schema, read_table
from raymia.data.tar import Fault, RawSample, ShardEnd
from raymia.errors import ConfigError
from raymia.urls import public

MAX_IMAGE_BYTES = SHARD_LIMITS.max_image_bytes
"""A larger image is not read, in a tar or out of it."""
FETCHED_COLUMNS = ("key", "url", "status", "error_message")
CHECKED_PX = 64
"""Images are decoded whole and reduced to this side, to see that they can be."""

Row = dict[str, Any]
"""A row of the attrition table; see `raymia.curation.attrition.ATTRITION_SCHEMA`."""


@dataclass(frozen=True)
class Packed:
    """A sample as it goes into a shard.

    Attributes:
        key: its key, without a dot.
        extension: that of the image's format.
        content: the image file.
        caption: empty where there is none.
        source: the name by which the user knows the image, without secrets.
        facts: what is said of it; see `raymia.curation.told.kept`.
    """

    key: str
    extension: str
    content: bytes
    caption: str
    source: str
    facts: Mapping[str, str] = field(default_factory=dict)


def file_samples(part: FilePart, rows: list[Row], max_pixels: int) -> Iterator[Packed]:
    """The samples of a part of image files, or of images in a table.

    Args:
        part: the images.
        rows: what became of each image is added.
        max_pixels: an image whose header announces more is not packed.
    """
    for file, content in contents_of(part):
        row: Row = {"key": file.key, "source": named(file.source)}
        rows.append(row)
        if isinstance(content, Fault):
            row |= lost("read", content)
            continue
        extension = _checked(content, row, max_pixels)
        if extension is not None:
            caption = caption_of_file(file)
            facts, fault = told_beside(file)
            row["flags"] = _joined((*file.flags, *caption.flags, *_unread(fault, caption.flags)))
            yield Packed(file.key, extension, content, caption.text, row["source"], kept(facts))


def shard_samples(part: ShardPart, spool: IO[bytes], rows: list[Row], max_pixels: int) -> Iterator[Packed]:
    """The samples of a tar by key.

    Sorting makes the shard the same every time: what a downloader wrote stands in the order in which the network answered.

    Args:
        part: the tar.
        spool: file that holds the images until all are read.
        rows: what became of each image that was attempted is added.
        max_pixels: an image whose header announces more is not packed.
    """
    known = {} if part.table is None else _img2dataset_rows(part.table)
    attempted = known or {}
    tar = _Tar(_not_fetched(attempted))
    if known is None:
        other = Fault("other_table", f"lacks img2dataset's columns {', '.join(FETCHED_COLUMNS)}")
        tar.more.append({"source": named(str(part.table))} | lost(LISTED, other))
    for item in part.reader.read():
        if isinstance(item, ShardEnd):
            if item.fault is not None:
                tar.more.append({"source": named(part.reader.shard.url)} | lost("read", item.fault))
            if item.skipped:
                left = Fault("dropping", f"{item.skipped} files left there by a system or a program")
                tar.more.append({"source": named(part.reader.shard.url)} | lost(LISTED, left))
            continue
        tar.take(item, attempted.get(item.key, {}).get("url") or item.key, spool, max_pixels)
    gone = Fault("not_in_tar", "img2dataset lists it as fetched, but it is not in the tar")
    for key in attempted.keys() - tar.outcomes.keys():
        tar.outcomes[key] = {"key": key, "source": named(attempted[key]["url"] or key)} | lost("read", gone)
    names = fit_keys(tar.outcomes.keys())
    for row in (*tar.outcomes.values(), *tar.more):
        if "key" in row:
            row["key"] = names[row["key"]]
    rows += sorted((*tar.outcomes.values(), *tar.more), key=lambda row: str(row.get("key", "")))
    for key in sorted(tar.places, key=names.__getitem__):
        start, size, extension, caption, facts = tar.places[key]
        spool.seek(start)
        yield Packed(names[key], extension, spool.read(size), caption, tar.outcomes[key]["source"], facts)


class _Tar:
    """What a tar holds, as it is read.

    Attributes:
        outcomes: a row for the first sample of each key.
        more: rows of what has no key of its own: samples that repeat one, and the rest of a shard that cannot be read.
        places: where the image of each sample that can be packed stands in the spool, its size, extension,
            caption and facts.
    """

    def __init__(self, outcomes: dict[str, Row]) -> None:
        """Begin with what is known of samples that were not fetched."""
        self.outcomes = outcomes
        self.more: list[Row] = []
        self.places: dict[str, tuple[int, int, str, str, dict[str, str]]] = {}
        self._met: set[str] = set()

    def take(self, sample: RawSample, source: str, spool: IO[bytes], max_pixels: int) -> None:
        """Note a sample, and keep its image where it can be packed."""
        row: Row = {"key": sample.key, "source": named(source)}
        if sample.key in self._met:
            self.more.append(row | lost("read", sample.fault or Fault("duplicate_key", "another sample has this key")))
            return
        self._met.add(sample.key)
        self.outcomes[sample.key] = row
        if sample.fault is not None or sample.image is None:
            row |= lost("read", sample.fault or Fault("no_image", "the sample has no image"))
            return
        extension = _checked(sample.image, row, max_pixels)
        if extension is not None:
            facts, fault = told_in(sample.facts)
            row["flags"] = _joined((*sample.flags, *_unread(fault, sample.flags)))
            self.places[sample.key] = (spool.tell(), len(sample.image), extension, sample.caption, kept(facts))
            spool.write(sample.image)


def named(source: str) -> str:
    """The name by which the user knows an image, fit for a table and without secrets."""
    return public(printable(source))


def lost(stage: str, fault: Fault) -> Row:
    """The columns that say where and why an image was lost."""
    return {"stage": stage, "reason": fault.reason, "detail": named(fault.detail)}


def _joined(flags: tuple[str, ...]) -> str:
    return ",".join(dict.fromkeys(flags))


def _not_fetched(attempted: dict[str, Row]) -> dict[str, Row]:
    """Rows of the images that img2dataset could not fetch, by key."""
    rows: dict[str, Row] = {}
    for key, entry in attempted.items():
        if entry["status"] != "success":
            fault = Fault(fetch_reason(entry["error_message"]), entry["error_message"] or "")
            rows[key] = {"key": key, "source": named(entry["url"] or key)} | lost("fetch", fault)
    return rows


def _img2dataset_rows(table: str) -> dict[str, Row] | None:
    """What img2dataset attempted for a shard, by key; none where the table beside the shard is another's.

    Raises:
        ConfigError: the table cannot be read.
    """
    try:
        if not {*FETCHED_COLUMNS} <= {*read_schema(table, "table").names}:
            return None
        rows = read_table(table, FETCHED_COLUMNS, "table", others=False)
    except ConfigError as error:
        raise ConfigError(f"{error}; move it away from its shard, or fetch again") from error
    whole = rows.astype(object).where(rows.notna(), None)
    return {row["key"]: {str(name): value for name, value in row.items()} for row in whole.to_dict("records")}


def _checked(content: bytes, row: Row, max_pixels: int) -> str | None:
    """The extension of an image that decodes; none, and why in `row`, for one that does not."""
    try:
        return decode_image(content, CHECKED_PX, max_pixels).extension
    except ImageError as error:
        row |= lost("decode", Fault(error.reason, error.detail))
        return None


def told_beside(file: ImageFile, url_field: str | None = None) -> tuple[dict[str, str], Fault | None]:
    """The facts that came with a file, and others in the JSON beside it; and why that cannot be read, where it cannot.

    Args:
        file: the image.
        url_field: see `raymia.curation.told.facts_in_json`.
    """
    told, fault = dict[str, str](), None
    beside = next((location for location in file.side_cars if extension_of(location) == "json"), None)
    if beside is not None:
        content = read_or_fault(beside, MAX_TEXT_BYTES)
        if isinstance(content, Fault):
            fault = Fault(UNREADABLE, content.detail)
        else:
            told, fault = told_in(content, url_field)
    return told | dict(file.facts), fault


def told_in(content: bytes, url_field: str | None = None) -> tuple[dict[str, str], Fault | None]:
    """The facts in a JSON beside an image, and why it cannot be read, where it cannot."""
    try:
        return facts_in_json(content, url_field), None
    except ToldError as error:
        return {}, Fault(UNREADABLE, str(error))


def _unread(fault: Fault | None, flags: Sequence[str]) -> tuple[str, ...]:
    """The flag of a JSON that cannot be read, where nothing says so yet."""
    return () if fault is None or CAPTION_UNREADABLE in flags else (UNREADABLE,)


def caption_of_file(file: ImageFile) -> Caption:
    """The caption that came with a file, or stands in the first file beside it that has one."""
    if file.caption is not None:
        return caption_of(file.caption)
    texts: dict[str, bytes] = {}
    unread: list[str] = []
    for location in file.side_cars:
        content = read_or_fault(location, MAX_TEXT_BYTES)
        if isinstance(content, Fault):
            unread.append(CAPTION_UNREADABLE)
            continue
        texts[location.rpartition(".")[2].lower()] = content
        caption = caption_beside(texts)
        if caption.text:
            return Caption(caption.text, (*unread, *caption.flags))
    caption = caption_beside(texts)
    return Caption("", (*unread, *caption.flags))


def contents_of(part: FilePart) -> Iterator[tuple[ImageFile, bytes | Fault]]:
    """The bytes of each image, or why they cannot be read."""
    if part.table is None:
        yield from ((file, read_or_fault(file.location, MAX_IMAGE_BYTES)) for file in part.files)
        return
    values = parquet_rows(part.table, IMAGE_COLUMN, [file.row or 0 for file in part.files])
    fault: Fault | None = None
    for file in part.files:
        try:
            value = None if fault is not None else next(values)
        except (UnreadableError, TableError) as error:
            # Where a table breaks off, its other rows cannot be reached.
            fault = Fault("unreadable_table", public(printable(str(error))))
        yield file, fault or _in_row(value, file)


def _in_row(value: Any, file: ImageFile) -> bytes | Fault:
    """The image in a cell of a table, or else in the file that it names."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if content is None:
        return read_or_fault(file.location, MAX_IMAGE_BYTES) if file.location else Fault("no_image", "the row holds no image")
    if len(content) > MAX_IMAGE_BYTES:
        return Fault("too_large", f"{len(content)} bytes; at most {MAX_IMAGE_BYTES} are read")
    return bytes(content)


def read_or_fault(location: str, limit: int) -> bytes | Fault:
    """The bytes of a file of at most `limit` bytes, or why they cannot be read."""
    kind = irregular(location) if "://" not in location else None
    if kind is not None:
        return Fault("not_a_file", f"expected a file, found {kind}")
    try:
        return read_file(location, limit)
    except UnreadableError as error:
        return Fault(error.reason, error.detail)
