"""The images of a folder with their captions, from a table or from files beside them; and what of these belongs to none."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from raymia.curation.folders import Dropped
from raymia.curation.kinds import Sorted
from raymia.curation.names import extension_of, keys_of, pair
from raymia.curation.parts import NAME_DIFFERS, NO_SUCH_IMAGE, Facts, ImageFile
from raymia.curation.told import KEPT, facts_in_rows, kept, names_in
from raymia.data.captions import TEXTS
from raymia.data.manifest import within
from raymia.data.tables import read_columns, read_table
from raymia.errors import ConfigError
from raymia.urls import public

UNUSED_CAPTION = "unused_caption"
"""Reason for a file that may hold a caption, but of no image beside it."""
NOT_IN_CAPTIONS = "not_in_captions"
"""Flag of an image that no row of the table of captions names."""
SEVERAL_CAPTIONS = "several_captions"
"""Flag of an image of which rows of the table of captions disagree; the first counts."""


@dataclass(frozen=True)
class Captions:
    """What a table of captions says of the images of a folder.

    Attributes:
        captions: caption, flags and facts by image; see `raymia.curation.parts.ImageFile`.
        named: images as rows have them.
        unmatched: rows that name none.
    """

    captions: dict[str, tuple[str, tuple[str, ...], Facts]]
    named: frozenset[str]
    unmatched: tuple[Dropped, ...]


def images_of_folder(source: str, found: Sorted, given: Captions | None) -> tuple[list[ImageFile], list[Dropped]]:
    """Images of a folder, with captions from a table or from files beside them; and such files beside none.

    Args:
        source: path or URL of the folder.
        found: its files.
        given: what the table says; none where there is no table.
    """
    keys = keys_of(found.images)
    side_cars, renamed = _side_cars(found.images, found.texts)
    used = {text for texts in side_cars.values() for text in texts}
    unused = [
        Dropped(name, "list", UNUSED_CAPTION, "no image takes its caption from it") for name in found.texts if name not in used
    ]
    files = []
    for name, key in zip(found.images, keys, strict=True):
        texts = tuple(within(source, text) for text in side_cars.get(name, ()))
        if given is not None:
            caption, flags, facts = given.captions[name]
            # The JSON beside an image says nothing of its caption then, and perhaps when it was published.
            told = tuple(text for text in texts if extension_of(text) == "json")
            files.append(ImageFile(within(source, name), name, key, caption, told, flags, facts=facts))
            continue
        files.append(ImageFile(within(source, name), name, key, None, texts, (NAME_DIFFERS,) * (name in renamed)))
    return files, unused


def _side_cars(images: Sequence[str], texts: Sequence[str]) -> tuple[dict[str, list[str]], set[str]]:
    """Names of the files that may hold each image's caption, in order; and the images whose names those do not quite have."""
    by_stem: dict[str, dict[str, str]] = {}
    # In order: of `a.TXT` and `a.txt` the latter counts.
    for name in texts:
        by_stem.setdefault(posixpath.splitext(name)[0], {})[extension_of(name)] = name
    stems = {name: posixpath.splitext(name)[0] for name in images}
    paired = pair(stems.values(), by_stem.keys())
    side_cars = {
        name: [by_stem[paired[stem]][extension] for extension in TEXTS if extension in by_stem[paired[stem]]]
        for name, stem in stems.items()
        if stem in paired
    }
    return side_cars, {name for name, stem in stems.items() if paired.get(stem, stem) != stem}


def read_captions(images: Sequence[str], captions: str, source: str) -> Captions:
    """What a table of captions says of the images of a folder.

    Args:
        images: their names, below the folder.
        captions: path or URL of the table, with columns `file` and `caption`.
        source: what errors call the folder.

    Raises:
        ConfigError: the table cannot be read, or names none of the images.
    """
    table = read_table(captions, ("file", "caption"), "captions", others=False)
    columns = names_in(read_columns(captions, "captions").names, KEPT)
    facts = [kept(row) for row in facts_in_rows(captions, columns)] if columns else [{}] * len(table)
    rows: dict[str, list[str]] = {}
    told: dict[str, dict[str, str]] = {}
    for name, caption, of_row in zip(table["file"], table["caption"].fillna(""), facts, strict=True):
        if isinstance(name, str):
            rows.setdefault(name, []).append(caption)
            told.setdefault(name, of_row)
    paired = pair(rows, set(images))
    if not paired:
        example = public(next(iter(rows), "none"))
        raise ConfigError(f"captions {public(captions)}: none of its files is in {public(source)}, such as {example!r}")
    given: dict[str, tuple[str, tuple[str, ...], Facts]] = dict.fromkeys(images, ("", (NOT_IN_CAPTIONS,), ()))
    for name, image in paired.items():
        flags = [NAME_DIFFERS] * (name != image) + [SEVERAL_CAPTIONS] * (len(set(rows[name])) > 1)
        given[image] = (rows[name][0], tuple(flags), tuple(told[name].items()))
    detail = f"a row of {posixpath.basename(public(captions))} that names no image of the folder"
    unmatched = [Dropped(name, "list", NO_SUCH_IMAGE, detail) for name in rows if name not in paired]
    return Captions(given, frozenset(paired), tuple(unmatched))
