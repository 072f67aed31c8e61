"""What an audit will test, written down and hashed before a score is computed, and never changed after."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from raymia.config import differences
from raymia.errors import ConfigError, describe_validation
from raymia.evaluation.extraction import FEW, THRESHOLDS
from raymia.evaluation.set_level import ENOUGH_TO_FIT, SIGNIFICANT, SPLITS
from raymia.evaluation.signals import signals_of
from raymia.evidence.sets import Sets, packed_shards
from raymia.evidence.timestamp import Stamp, StampError, read, request
from raymia.run.record import Access, now_text
from raymia.run.storage import Storage
from raymia.scan.plan import ScanPlan

REGISTRATION_FILE, STAMP_FILE = "registration.json", "registration.tsr"
MAX_BYTES, MAX_STAMP_BYTES = 2**26, 2**20
GIVEN_BACK = (
    f"a work is given back where the closest image of its caption is above every threshold that is published for the detector "
    f"({', '.join(map(str, THRESHOLDS))} of sscd), and closer to it than any image of another caption is to any work; without "
    f"such a threshold fewer than {FEW} captions decide nothing"
)


class Registration(BaseModel):
    """Contents of registration.json."""

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    registered: str
    """When, in UTC, by this machine's clock."""
    raymia: str
    samples: dict[str, int]
    """That will be scored, by split; fewer may come out where images do not decode."""
    shards: dict[str, str]
    """sha256 of every packed shard: of all images and captions."""
    scan: dict[str, Any]
    """Job, manifest, shards, selection and digests of the model: all that scores follow from."""
    signals: list[str]
    """All that the attacks will give that the access allows."""
    primary: list[str]
    """Of these, the ones that the mean is of."""
    access: str
    test: str
    """Which of the two tests counts, by the sizes of the sets."""
    significant: float
    """The works score higher where p is below this."""
    extraction: dict[str, Any] | None = None
    """Job, manifest, selection and digests of the model by which images are asked for, and which works count as given back;
    none where none are asked for."""

    def content(self) -> dict[str, Any]:
        """As it stands in the file."""
        content = self.model_dump(mode="json")
        if self.extraction is None:
            del content["extraction"]
        return content

    def digest(self) -> str:
        """sha256 of the contents in canonical JSON, the file's: what a person publishes, deposits or has stamped."""
        return hashlib.sha256(canonical(self.content())).hexdigest()


def canonical(content: Any) -> bytes:
    """JSON with sorted keys and without spaces: the same bytes for the same contents."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def registration_of(
    plan: ScanPlan, extraction: ScanPlan | None, sets: Sets, folder: str, access: Access, version: str
) -> Registration:
    """What an audit that begins now will test.

    Args:
        plan: of the scan.
        extraction: of the scan that asks for images; none where none are asked for.
        sets: works and control.
        folder: of the audit.
        access: signals of attacks that need more are left out.
        version: of raymia.
    """
    signals = signals_of(access, plan.signals)
    primary = [signal.name for signal in plan.signals if signal.primary and signal.name in signals]
    rule = (
        f"one-sided; with {ENOUGH_TO_FIT} units of each set or more, twice the median p of {SPLITS} random splits into halves "
        "to fit a direction on and to compare; with fewer, the mean of the primary signals, each standardised by the control, "
        "by Welch's test; works that show the same are one unit"
    )
    return Registration(
        registered=now_text(),
        raymia=version,
        samples=sets.samples,
        shards=packed_shards(folder),
        scan=plan.identity,
        signals=signals,
        primary=primary,
        access=str(access),
        test=rule,
        significant=SIGNIFICANT,
        extraction=None if extraction is None else {"scan": extraction.identity, "given_back": GIVEN_BACK},
    )


def register(storage: Storage, new: Registration, has_scores: bool) -> Registration:
    """Write the registration, or hold this audit against the one that is there.

    Args:
        storage: folder of the audit.
        new: what would be tested now.
        has_scores: whether scores were computed already.

    Returns:
        The registration that holds.

    Raises:
        ConfigError: another audit was registered, or scores were computed before anything was.
    """
    before = read_registration(storage)
    if before is None:
        if has_scores:
            raise ConfigError(
                f"{storage.url}: holds scores and no {REGISTRATION_FILE}, so that what was to be tested cannot be told any "
                "more; choose another --out"
            )
        storage.write(REGISTRATION_FILE, canonical(new.content()))
        return new
    fresh = {"registered", "raymia"}
    if changed := differences(before.model_dump(mode="json", exclude=fresh), new.model_dump(mode="json", exclude=fresh)):
        raise ConfigError(
            f"{storage.url}/{REGISTRATION_FILE}: another audit was registered on {before.registered}, and a registration is "
            f"not changed; restore these, or choose another --out: {'; '.join(changed)}"
        )
    return before


def stamp(storage: Storage, registration: Registration, url: str, has_scores: bool) -> Stamp:
    """Have the registration stamped by an authority, and keep its answer beside it; the stamp that is there already holds.

    Args:
        storage: folder of the audit.
        registration: that stands in it.
        url: of the authority.
        has_scores: whether scores were computed already.

    Raises:
        ConfigError: scores were computed before, so that a stamp would show nothing.
        StampError: the authority gave none, or what is there is none of this registration.
    """
    there = stamp_of(storage, registration)
    if there is not None:
        return there
    if has_scores:
        raise ConfigError(
            f"--timestamp: {storage.url} holds scores already, so that a stamp of today would not show that the registration "
            "came first; leave it out, or choose another --out"
        )
    digest = bytes.fromhex(registration.digest())
    answer = request(digest, url)
    storage.write(STAMP_FILE, answer)
    return read(answer, digest)


def stamp_of(storage: Storage, registration: Registration, roots: Path | None = None) -> Stamp | None:
    """The time stamp of a registration, which was checked; none where there is none.

    Args:
        storage: folder of the audit.
        registration: that stands in it.
        roots: PEM file of root certificates that are trusted; none for this machine's.

    Raises:
        ConfigError: a library that reads time stamps is missing.
        StampError: it is of something else, was changed, or leads to none of the roots.
    """
    answer = storage.read(STAMP_FILE, MAX_STAMP_BYTES)
    if answer is None:
        return None
    try:
        return read(answer, bytes.fromhex(registration.digest()), roots)
    except StampError as error:
        raise StampError(f"{storage.url}/{STAMP_FILE}: this time stamp {error}") from error


def differences_of(one: Registration, other: Registration) -> list[str]:
    """What two parties' registrations differ in, but for the places where their images and models lie."""
    return differences(_placeless(one), _placeless(other))


def _placeless(registration: Registration) -> dict[str, Any]:
    content = registration.model_dump(mode="json", exclude={"registered", "raymia", "scan", "extraction"})
    content |= _without_places(registration.scan)
    if registration.extraction is None:
        return content
    asked = _without_places(registration.extraction["scan"])
    return {**content, "extraction": {**registration.extraction, "scan": asked}}


def _without_places(scan: dict[str, Any]) -> dict[str, Any]:
    job = {name: value for name, value in scan["job"].items() if name not in ("manifest", "run", "latent_cache")}
    places = ("model", "adapters", "base")  # their digests are among the model's
    job["replica"] = {name: value for name, value in job["replica"].items() if name not in places}
    return {"job": job, "model": scan["model"], "selection": scan["selection"]}


def read_registration(storage: Storage) -> Registration | None:
    """The registration of an audit; none where there is none.

    Raises:
        ConfigError: the file is none.
    """
    content = storage.read(REGISTRATION_FILE, MAX_BYTES)
    if content is None:
        return None
    try:
        return Registration.model_validate_json(content)
    except ValidationError as error:
        described = describe_validation(error, Registration)
        raise ConfigError(f"{storage.url}/{REGISTRATION_FILE}: is none ({described}); choose another --out") from error
