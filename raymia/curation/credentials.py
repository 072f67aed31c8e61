"""Content Credentials (C2PA) of an image file, read with the library c2pa-python where it is installed; no network is asked."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from raymia.documents import DocumentError, parse_json
from raymia.errors import first_line

ASSERTIONS = ("cawg.training-mining", "c2pa.training-mining")
"""Labels of the assertions on training and data mining, those of the CAWG and, before, of C2PA itself."""
TRAINING = ("ai_generative_training", "ai_training", "data_mining", "ai_inference")
"""What permission is said of, by the end of the entry's name; the first that is there says whether training is allowed."""
USES = ("allowed", "notAllowed", "constrained")
OFFLINE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
"""Settings of the library: a file must not make anybody's machine ask anything of another."""


@dataclass(frozen=True)
class Credentials:
    """What the Content Credentials of a file say.

    Attributes:
        state: `Valid`, `Trusted` or `Invalid`, as the library finds the signature; empty where they cannot be read.
        signer: who signed, as the certificate names them; anybody may name themselves so unless the state is `Trusted`.
        uses: `allowed`, `notAllowed` or `constrained`, by what it is said of (see `TRAINING`).
        fault: why they cannot be read; empty where they can.
    """

    state: str = ""
    signer: str = ""
    uses: Mapping[str, str] | None = None
    fault: str = ""

    @property
    def training(self) -> str | None:
        """Whether training a generative model is allowed, or else training at all; none where nothing is said of either."""
        return next(((self.uses or {})[name] for name in TRAINING[:2] if name in (self.uses or {})), None)


def can_read() -> bool:
    """Whether the library is installed."""
    return importlib.util.find_spec("c2pa") is not None


def read_credentials(content: bytes) -> Credentials | None:
    """The Content Credentials in a file; none where there are none. What is bad in them is a fault.

    Raises:
        ImportError: the library is not installed; see `can_read`.
    """
    import c2pa

    try:
        # Without a type, the library tells that from the file's bytes, and not from what somebody calls them.
        reader = c2pa.Reader.try_create(None, io.BytesIO(content), None, _context())
        if reader is None:
            return None
        with reader:
            return credentials_of(reader.json())
    except Exception as error:  # noqa: BLE001 - the library's own errors, and what it does not foresee
        return Credentials(fault=f"{type(error).__name__}: {first_line(error)}")


def credentials_of(report: str) -> Credentials:
    """What the library's report says, which is JSON made of what stood in the file."""
    try:
        content: Any = parse_json(report, strict=False)
        manifest = content["manifests"][content["active_manifest"]]
        said = {entry["label"].split("__")[0]: entry.get("data", {}) for entry in manifest.get("assertions", [])}
        signer = manifest.get("signature_info", {})
        names = [str(signer[name]) for name in ("common_name", "issuer") if signer.get(name)]
        uses: dict[str, str] = {}
        for label in ASSERTIONS:
            for name, entry in said.get(label, {}).get("entries", {}).items():
                if entry.get("use") in USES:
                    uses.setdefault(str(name).rpartition(".")[2], entry["use"])
        return Credentials(str(content.get("validation_state", "")), ", ".join(dict.fromkeys(names)), uses)
    except (DocumentError, KeyError, TypeError, AttributeError) as error:
        return Credentials(fault=f"the library's report cannot be read: {type(error).__name__}: {first_line(error)}")


@cache
def _context() -> Any:
    import c2pa

    return c2pa.Context(settings=c2pa.Settings.from_dict(OFFLINE))
