"""What an audit will test, written down and hashed before a score is computed, and never changed after."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from raymia.config import differences
from raymia.curation.derive import MANIFEST_FILE
from raymia.data.manifest import load_manifest
from raymia.errors import ConfigError, describe_validation
from raymia.evaluation.set_level import ENOUGH_TO_FIT, SIGNIFICANT, SPLITS
from raymia.evidence.sets import PACKED, Sets
from raymia.run.record import Access, now_text
from raymia.run.storage import Storage
from raymia.scan.plan import ScanPlan

REGISTRATION_FILE = "registration.json"
MAX_BYTES = 2**26


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

    def digest(self) -> str:
        """sha256 of the contents in canonical JSON: what a person publishes or deposits."""
        return hashlib.sha256(canonical(self.model_dump(mode="json"))).hexdigest()


def canonical(content: Any) -> bytes:
    """JSON with sorted keys and without spaces: the same bytes for the same contents."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def registration_of(plan: ScanPlan, sets: Sets, folder: str, access: Access, signals: list[str], version: str) -> Registration:
    """What an audit that begins now will test."""
    packed, _ = load_manifest(f"{folder}/{PACKED}/{MANIFEST_FILE}")
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
        shards={path: digest for split in packed.splits for path, digest in sorted((split.sha256 or {}).items())},
        scan=plan.identity,
        signals=signals,
        primary=primary,
        access=str(access),
        test=rule,
        significant=SIGNIFICANT,
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
        storage.write(REGISTRATION_FILE, canonical(new.model_dump(mode="json")))
        return new
    fresh = {"registered", "raymia"}
    if changed := differences(before.model_dump(mode="json", exclude=fresh), new.model_dump(mode="json", exclude=fresh)):
        raise ConfigError(
            f"{storage.url}/{REGISTRATION_FILE}: another audit was registered on {before.registered}, and a registration is "
            f"not changed; restore these, or choose another --out: {'; '.join(changed)}"
        )
    return before


def differences_of(one: Registration, other: Registration) -> list[str]:
    """What two parties' registrations differ in, but for the places where their images and models lie."""
    return differences(_placeless(one), _placeless(other))


def _placeless(registration: Registration) -> dict[str, Any]:
    content = registration.model_dump(mode="json", exclude={"registered", "raymia", "scan"})
    job = {name: value for name, value in registration.scan["job"].items() if name not in ("manifest", "run", "latent_cache")}
    places = ("model", "adapters", "base")  # their digests are among the model's
    job["replica"] = {name: value for name, value in job["replica"].items() if name not in places}
    return {**content, "job": job, "model": registration.scan["model"], "selection": registration.scan["selection"]}


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
