"""Names of files and samples: keys that are fit for a tar, and names that mean the same file though spelled otherwise."""

from __future__ import annotations

import hashlib
import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence

from raymia.urls import public

UNSAFE = re.compile(r"[^A-Za-z0-9_/-]+")
"""Characters that do not go into a key."""
INTERNAL = re.compile(r"^_+(?=[^/]*__/)")
"""The start of a key that makes WebDataset pass over its folder as one for its own use."""
FIT = re.compile(r"(?!__[^/]*__/)[^.\x00-\x1f\x7f]+")
"""Keys of a tar that are read back as they are written, by WebDataset's rule too."""


def fit_keys(keys: Collection[str]) -> dict[str, str]:
    """The key under which each sample of a tar is packed: its own, or one near to it where that holds a dot or the like."""
    unfit = sorted(key for key in keys if not FIT.fullmatch(key))
    names = {key: key for key in keys}
    return names | dict(zip(unfit, _distinct(unfit, unfit, names.keys() - set(unfit)), strict=True))


def keys_of(names: Sequence[str]) -> list[str]:
    """A distinct key for each file or URL, near to its name, fit for the name of a tar's member, and without secrets."""
    plain = [public(name) for name in names]
    return _distinct([posixpath.splitext(name)[0].removeprefix("./").lstrip("/") for name in plain], plain)


def pair(wanted: Iterable[str], there: Collection[str]) -> dict[str, str]:
    """The name that is there for each name that is wanted, as far as it is beyond doubt.

    A name stands for itself. Of what is left, it stands for the only one that differs from it by nothing but the path's
    spelling (``./a``), Unicode form, Windows' separators or, at last, case, where no other wanted name could.
    """
    wanted = list(dict.fromkeys(wanted))
    paired = {name: name for name in wanted if name in there}
    for form in _FORMS:
        left = [name for name in wanted if name not in paired]
        if not left:
            break
        free = _by_form(form, set(there).difference(paired.values()))
        for spelled, names in _by_form(form, left).items():
            found = free.get(spelled, [])
            if len(names) == len(found) == 1:
                paired[names[0]] = found[0]
    return paired


def extension_of(name: str) -> str:
    """The ending of a file's name in lower case, without the dot; empty where it has none."""
    return posixpath.splitext(name)[1].removeprefix(".").lower()


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", posixpath.normpath(name))


def _with_slashes(name: str) -> str:
    return _composed(name.replace("\\", "/"))


def _in_one_case(name: str) -> str:
    return unicodedata.normalize("NFC", _with_slashes(name).casefold())


_FORMS: tuple[Callable[[str], str], ...] = (posixpath.normpath, _composed, _with_slashes, _in_one_case)


def _by_form(form: Callable[[str], str], names: Iterable[str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = defaultdict(list)
    for name in names:
        grouped[form(name)].append(name)
    return grouped


def _distinct(stems: Sequence[str], names: Sequence[str], taken: Collection[str] = ()) -> list[str]:
    """A key near to each stem: with a digest of the name where there are others like it, and then, if need be, a number."""
    plain = [INTERNAL.sub("", UNSAFE.sub("_", stem)) or "image" for stem in stems]
    counts = Counter([*plain, *taken])
    digests = (hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8] for name in names)
    keys, used, numbers = [], set(taken), Counter[str]()
    for key, digest in zip(plain, digests, strict=True):
        near = distinct = key if counts[key] == 1 else f"{key}-{digest}"
        while distinct in used:
            numbers[near] += 1
            distinct = f"{near}-{numbers[near] + 1}"
        used.add(distinct)
        keys.append(distinct)
    return keys
