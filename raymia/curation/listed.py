"""The images that a table names, or holds itself."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from raymia.curation.folders import Dropped
from raymia.curation.names import keys_of, pair
from raymia.curation.parts import NAME_DIFFERS, Facts, ImageFile
from raymia.curation.told import KEPT, facts_in_rows, kept, names_in
from raymia.data.manifest import within
from raymia.data.tables import read_leaf, read_schema, read_table
from raymia.errors import ConfigError
from raymia.urls import public

PATH_COLUMNS = ("file", "path", "image")
CAPTION_COLUMNS = ("caption", "text", "TEXT")
IMAGE_COLUMN = "image"
"""Column of images that stand in the table itself: bytes, or the data hub's struct of `bytes` and `path`."""


def images_of_table(source: str) -> tuple[list[ImageFile], list[Dropped], bool]:
    """Images that a table names or holds; rows that name none; and whether it holds them.

    Raises:
        ConfigError: the table cannot be read, lacks a column, or names no image.
    """
    schema = read_schema(source, "table")
    columns = names_in(schema.names, KEPT)
    facts = [tuple(kept(row).items()) for row in facts_in_rows(source, columns)] if columns else []
    caption_column = _column(schema, CAPTION_COLUMNS, source)
    embedded = IMAGE_COLUMN in schema.names and holds_images(schema.field(IMAGE_COLUMN).type, source)
    dropped: list[Dropped] = []
    if embedded:
        files = _embedded(source, schema.field(IMAGE_COLUMN).type, caption_column, facts)
    else:
        files, dropped = _named(source, _column(schema, PATH_COLUMNS, source), caption_column, facts)
    if not files:
        raise ConfigError(f"table {public(source)}: none of its rows names an image")
    return files, dropped, embedded


def _named(source: str, path_column: str, caption_column: str, facts: Sequence[Facts]) -> tuple[list[ImageFile], list[Dropped]]:
    """An image for each row that names a file; not for one that says again what another says."""
    table = read_table(source, (path_column, caption_column), "table", others=False)
    folder = folder_of(source)
    paths = [path if isinstance(path, str) else None for path in table[path_column]]
    renamed = _renamed(folder, [path for path in paths if path is not None])
    first: dict[tuple[str, str], tuple[str, int]] = {}
    dropped: list[Dropped] = []
    for number, (path, caption) in enumerate(zip(paths, table[caption_column].fillna(""), strict=True)):
        if path is None:
            dropped.append(Dropped(f"row {number}", "read", "no_file_named", "the row names no file"))
            continue
        row = (renamed.get(path) or within(folder, path), caption)
        if row in first:
            dropped.append(Dropped(path, "read", "duplicate_file", "another row has the same file and caption"))
        first.setdefault(row, (path, number))
    files = [
        ImageFile(location, path, key, caption, (), (NAME_DIFFERS,) * (path in renamed), facts=facts[number] if facts else ())
        for ((location, caption), (path, number)), key in zip(
            first.items(), keys_of([path for path, _ in first.values()]), strict=True
        )
    ]
    return files, dropped


def _embedded(source: str, kind: pa.DataType, caption_column: str, facts: Sequence[Facts]) -> list[ImageFile]:
    """An image for each row of a table that holds them."""
    captions = read_table(source, (caption_column,), "table", others=False)[caption_column].fillna("")
    has_paths = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
    paths = read_leaf(source, IMAGE_COLUMN, "path", "table") if has_paths else [None] * len(captions)
    folder = folder_of(source)
    names = [path or f"row-{number:08d}" for number, path in enumerate(paths)]
    rows = enumerate(zip(paths, names, keys_of(names), captions, strict=True))
    return [
        ImageFile(within(folder, path) if path else "", name, key, caption, row=number, facts=facts[number] if facts else ())
        for number, (path, name, key, caption) in rows
    ]


def _renamed(folder: str, paths: Sequence[str]) -> dict[str, str]:
    """Where the files are that a table on a local disk does not quite name, by the names that it has for them."""
    if "://" in folder:
        return {}
    gone = [path for path in dict.fromkeys(paths) if "://" not in path and not os.path.lexists(within(folder, path))]
    beside: set[str] = set()
    for parent in {posixpath.dirname(path) for name in gone for path in (name, name.replace("\\", "/"))}:
        try:
            beside |= {posixpath.join(parent, path.name) for path in Path(folder, parent).iterdir()}
        except (OSError, ValueError):
            continue
    named = [path for path in dict.fromkeys(paths) if path not in gone]
    found = pair([*named, *gone], beside | set(named))
    return {path: within(folder, found[path]) for path in gone if path in found}


def holds_images(kind: pa.DataType, source: str) -> bool:
    """Whether a column of images holds the images themselves, and not names of files."""
    if pa.types.is_struct(kind):
        fields = {kind.field(number).name for number in range(kind.num_fields)}
        if "bytes" not in fields:
            raise ConfigError(
                f"table {public(source)}: column {IMAGE_COLUMN} is {kind}; expected text, or a struct with `bytes`"
            )
        return True
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def folder_of(source: str) -> str:
    """The folder of a table, whose URL may carry a signature."""
    return posixpath.dirname(re.split("[?#]", source, maxsplit=1)[0] if "://" in source else source)


def _column(schema: pa.Schema, candidates: Sequence[str], source: str) -> str:
    column = next((name for name in candidates if name in schema.names), None)
    if column is None:
        has = ", ".join(schema.names)
        raise ConfigError(f"table {public(source)}: expected a column {' or '.join(candidates)}; it has {has}")
    return column
