"""Files that file systems and their tools leave beside those that people put there, and what WebDataset keeps for itself."""

from __future__ import annotations

import re

FILES = frozenset(
    {".ds_store", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", ".directory", ".localized", "icon\r"}
    | {".volumeicon.icns", ".apdisk"}
)
"""Names in lower case."""
PREFIXES = ("._", ".nfs", ".fuse_hidden", ".smbdelete", ".~lock.")
"""What names begin with: AppleDouble's other halves, and files that are deleted but still open."""
FOLDERS = frozenset(
    {"__macosx", "@eadir", "lost+found", "paxheader", "paxheaders", "$recycle.bin", "system volume information", ".trashes"}
    | {".spotlight-v100", ".fseventsd", ".temporaryitems", ".documentrevisions-v100", ".appledouble", "#recycle", ".@__thumb"}
)
"""Names of folders in lower case, in which all is left out."""
NUMBERED = re.compile(r"paxheaders\.\d+")
"""Folders of PAX headers as files, which tars written by one tool and unpacked by another hold."""
INTERNAL = re.compile(r"__.*__")
"""Names of files that WebDataset keeps for itself."""


def is_dropping(name: str) -> bool:
    """Whether a file is none that somebody meant to be there.

    Args:
        name: path of the file in its tar or folder, with slashes.
    """
    *folders, base = name.lower().split("/")
    if base in FILES or base.startswith(PREFIXES) or INTERNAL.fullmatch(base):
        return True
    return any(folder in FOLDERS or NUMBERED.fullmatch(folder) for folder in folders)
