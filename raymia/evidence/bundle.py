"""An audit's folder as one piece of evidence: the digest of every file in it, and whether they still hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from raymia.digests import file_digest
from raymia.errors import ConfigError, describe_validation
from raymia.evidence.registration import REGISTRATION_FILE, canonical, read_registration
from raymia.run.record import now_text
from raymia.run.storage import Storage

BUNDLE_FILE = "bundle.json"
MAX_BYTES = 2**28


class Bundle(BaseModel):
    """Contents of bundle.json.

    Attributes:
        made: when, in UTC.
        raymia: version that made it.
        registration: digest of what was to be tested, as it was registered before a score was computed.
        fingerprint: what identifies the attacked model.
        versions: of Python and of the libraries that scores follow from.
        files: sha256 of every other file in the folder, by its path there.
    """

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    made: str
    raymia: str
    registration: str
    fingerprint: str
    versions: dict[str, str]
    files: dict[str, str]

    def digest(self) -> str:
        """sha256 of the contents in canonical JSON, which stands for the whole folder."""
        return hashlib.sha256(canonical(self.model_dump(mode="json"))).hexdigest()


class _Sealed(BaseModel):
    model_config = ConfigDict(extra="forbid")

    bundle: Bundle
    sha256: str


def seal(folder: Path, raymia: str, fingerprint: str, versions: dict[str, str]) -> Bundle:
    """Write the digest of every file of a finished audit.

    Args:
        folder: of the audit.
        raymia: version.
        fingerprint: of the attacked model.
        versions: of libraries.
    """
    storage = Storage(str(folder))
    registration = read_registration(storage)
    assert registration is not None
    bundle = Bundle(
        made=now_text(),
        raymia=raymia,
        registration=registration.digest(),
        fingerprint=fingerprint,
        versions=versions,
        files={name: file_digest(path) for name, path in _files(folder)},
    )
    storage.write(BUNDLE_FILE, canonical({"bundle": bundle.model_dump(mode="json"), "sha256": bundle.digest()}))
    return bundle


def read_bundle(folder: Path) -> Bundle:
    """The bundle of a folder.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    content = Storage(str(folder)).read(BUNDLE_FILE, MAX_BYTES)
    if content is None:
        raise ConfigError(f"{folder}/{BUNDLE_FILE}: no such file; give the folder of a finished `raymia audit`")
    try:
        sealed = _Sealed.model_validate_json(content)
    except ValidationError as error:
        raise ConfigError(f"{folder}/{BUNDLE_FILE}: was changed ({describe_validation(error, _Sealed)})") from error
    if canonical(sealed.model_dump(mode="json")) != content or sealed.bundle.digest() != sealed.sha256:
        raise ConfigError(f"{folder}/{BUNDLE_FILE}: was changed: its own digest is not the one that it names")
    return sealed.bundle


def broken(folder: Path, bundle: Bundle) -> list[str]:
    """Every file that is not as it was sealed, with what is wrong."""
    present = dict(_files(folder))
    problems = []
    for name, digest in bundle.files.items():
        if name not in present:
            problems.append(f"{name}: is gone")
        elif present[name].is_symlink():
            problems.append(f"{name}: is a link")
        elif file_digest(present[name]) != digest:
            problems.append(f"{name}: was changed")
    problems += [f"{name}: was added" for name in present if name not in bundle.files]
    if not problems:
        registration = read_registration(Storage(str(folder)))
        if registration is None or registration.digest() != bundle.registration:
            problems.append(f"{REGISTRATION_FILE}: is not the one that the bundle names")
    return sorted(problems)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if (path.is_symlink() or path.is_file()) and name != BUNDLE_FILE:
            yield name, path
