"""What a file of a folder is: an image by its name or its first bytes, the caption of one, or something else."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from raymia.curation.folders import Dropped
from raymia.curation.names import extension_of
from raymia.data.captions import TEXTS
from raymia.data.formats import EXTENSIONS, format_of
from raymia.data.manifest import within
from raymia.data.remote import UnreadableError, open_file

HEAD_BYTES = 256
"""As much as is needed to tell a file's format."""
READERS = 16
"""Files whose first bytes are read at once."""
ARCHIVES = ("zip", "7z", "rar", "tgz", "gz", "bz2", "xz", "zst", "tbz2", "txz")
"""Extensions of files that may hold images and have to be unpacked first."""
OTHER_PICTURES = (
    *("heic", "heif", "hif", "jxl", "psd", "svg", "ico", "tga", "dds", "exr", "hdr", "jxr", "wdp"),
    *("arw", "cr2", "cr3", "dng", "nef", "nrw", "orf", "pef", "raf", "rw2", "raw", "srw", "x3f"),
)
"""Extensions of pictures that are not read. Those of cameras look like a TIFF, in which there is but a small preview."""


@dataclass
class Sorted:
    """A folder's files by what they are; each list in the order of their names.

    Attributes:
        images: by their extension or, where that says nothing, by their first bytes.
        tars: by their extension.
        texts: what may hold the caption of an image, by extension.
        dropped: everything else.
    """

    images: list[str] = field(default_factory=list)
    tars: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)


def sort_files(folder: str, names: Sequence[str], known: Collection[str] = ()) -> Sorted:
    """Say of each file in a folder what it is; those whose extension does not tell are looked at.

    Args:
        folder: path or URL.
        names: the files, below the folder, in order.
        known: those of them that are something else for certain, and are left out.
    """
    found = Sorted()
    unknown: list[str] = []
    for name in names:
        if name not in known and not _by_extension(name, found):
            unknown.append(name)
    with ThreadPoolExecutor(READERS) as readers:
        heads = readers.map(lambda name: _head(within(folder, name)), unknown)
        for name, head in zip(unknown, heads, strict=True):
            if isinstance(head, UnreadableError):
                found.dropped.append(Dropped(name, "read", head.reason, head.detail))
            elif format_of(head) is not None:
                found.images.append(name)
            else:
                found.dropped.append(Dropped(name, "list", "not_an_image", "begins like no image that is read"))
    found.images.sort()
    return found


def _by_extension(name: str, found: Sorted) -> bool:
    """Put a file where its extension says; whether that says anything."""
    extension = extension_of(name)
    lists = {"tar": found.tars} | dict.fromkeys(TEXTS, found.texts) | dict.fromkeys(EXTENSIONS, found.images)
    if extension in lists:
        lists[extension].append(name)
    elif extension in ARCHIVES:
        found.dropped.append(Dropped(name, "read", "archive", "images in an archive are not read; unpack it, or make it a tar"))
    elif extension in OTHER_PICTURES:
        detail = f"a picture as .{extension} is not read; export it as JPEG, PNG or TIFF"
        found.dropped.append(Dropped(name, "decode", "unknown_format", detail))
    else:
        return False
    return True


def _head(location: str) -> bytes | UnreadableError:
    try:
        with open_file(location) as stream:
            return stream.read(HEAD_BYTES)
    except UnreadableError as error:
        return error
