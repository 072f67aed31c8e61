"""What an audit says beside its scores: what a public list names, what works and provider say, and whether works come back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console

from raymia.config import Job
from raymia.curation.derive import output_folder
from raymia.curation.findings import claims_of_works, lookup_finding, provider_of
from raymia.curation.lists import find_lists
from raymia.curation.lookup import lookup
from raymia.curation.works import Works
from raymia.data.findings import LookupFinding
from raymia.data.provider import ProviderClaims, load_provider
from raymia.errors import ConfigError, describe_validation
from raymia.evaluation.evidence import CONTROL_SPLIT, LISTED_FILE, LOOKED_FILE, WORKS_SPLIT, Said
from raymia.evaluation.extraction import SIGNAL
from raymia.evidence.asking import Asked
from raymia.evidence.extraction import Prepared, Wanted
from raymia.evidence.extraction_beside import detector_of, prepare_beside
from raymia.evidence.sets import Sources, manifest_of, packed_shards
from raymia.run.storage import Storage
from raymia.urls import public

EXTRACTION = "extraction"
"""In the folder of an audit: that of an extraction."""
MAX_BYTES = 2**24


@dataclass(frozen=True)
class Beside:
    """What is looked at beside scores, where a person asks for it.

    Attributes:
        lists: public training lists, as `raymia data lookup` takes them.
        provider: CLAIMS.yaml of what the model's provider says; none for what a manifest of the works or the control has of it.
        extract: whether the captions of the works are told to the model, and what it makes of them held against the works.
        copies: copy detector of the extraction; none for the job's, or its CLIP.
    """

    lists: tuple[str, ...] = ()
    provider: str | None = None
    extract: bool = False
    copies: str | None = None


NOTHING = Beside()


class _Looked(BaseModel):
    """Contents of looked.json: what was found, and of which images."""

    model_config = ConfigDict(extra="forbid")

    shards: dict[str, str]
    """sha256 of every packed shard: of all images that were looked up."""
    said: Said


def require(beside: Beside, sources: Sources, job: Job) -> ProviderClaims | None:
    """See that what is looked at can be, before an image is packed.

    Args:
        beside: what is asked.
        sources: of the images.
        job: of the audit's scan.

    Returns:
        What the model's provider says, where anything is known of that.

    Raises:
        ConfigError: names the list, the provider's claims or the option.
    """
    if beside.lists:
        find_lists(beside.lists, (), {})
    if beside.extract:
        detector_of(job, beside.copies)
    if beside.provider is not None:
        return load_provider(beside.provider)
    return next((said for source in (sources.control, sources.works) if (said := provider_of(source)) is not None), None)


def look(beside: Beside, provider: ProviderClaims | None, folder: str, console: Console) -> Said:
    """Look works and control up in lists, and read what they and the provider say; done once in a folder.

    Args:
        beside: what is asked.
        provider: what the model's provider says.
        folder: of the audit, whose sets are made.
        console: where progress is shown.

    Raises:
        ConfigError: a list cannot be read, or lists or claims were others when this folder was begun.
    """
    lists = [public(name) for name in beside.lists]
    storage = output_folder(folder)
    shards = packed_shards(folder)
    looked = _read(storage)
    if looked is not None and (looked.said.lists, looked.said.provider, looked.shards) != (lists, provider, shards):
        raise ConfigError(
            f"{storage.url}/{LOOKED_FILE}: other lists, claims or images were looked at here; give --in and --provider as "
            "then, or choose another --out"
        )
    if looked is None:
        works, control = (Works(f"{manifest_of(folder)}#{split}") for split in (WORKS_SPLIT, CONTROL_SPLIT))
        named = _looked_up(beside, works, control, storage, console) if beside.lists else None
        of_works, of_control = (
            None if named is None else f"{folder}/{LISTED_FILE.format(split)}" for split in (WORKS_SPLIT, CONTROL_SPLIT)
        )
        said = Said(
            lists=lists,
            provider=provider,
            lookup=named,
            works=claims_of_works(works, console, provider, of_works),
            control=claims_of_works(control, console, provider, of_control),
        )
        looked = _Looked(shards=shards, said=said)
        storage.write(LOOKED_FILE, looked.model_dump_json(indent=1).encode() + b"\n")
    return looked.said


def _looked_up(beside: Beside, works: Works, control: Works, storage: Storage, console: Console) -> LookupFinding:
    """What the lists name of works and control; all matches of each are written."""
    found = lookup(works, list(beside.lists), console, control)
    of_control = found.matches["control"].to_numpy()
    for split, chosen in ((WORKS_SPLIT, ~of_control), (CONTROL_SPLIT, of_control)):
        rows = found.matches.filter(pa.array(chosen))
        place = rows.schema.get_field_index("control")
        own = rows.set_column(place, rows.schema.field(place), pa.array(np.zeros(len(rows), bool)))
        storage.write_table(LISTED_FILE.format(split), own)
    return lookup_finding(found)


def _read(storage: Storage) -> _Looked | None:
    content = storage.read(LOOKED_FILE, MAX_BYTES)
    if content is None:
        return None
    try:
        return _Looked.model_validate_json(content)
    except ValidationError as error:
        described = describe_validation(error, _Looked)
        raise ConfigError(f"{storage.url}/{LOOKED_FILE}: was changed ({described}); choose another --out") from error


def of_scores(beside: Beside, asked: Asked) -> tuple[Asked, tuple[str, ...]]:
    """The question without the changes of a job that are the extraction's, and these.

    Raises:
        ConfigError: there are such, or a detector, and no extraction is asked for.
    """
    own = tuple(change for change in asked.changes if change.startswith((f"attacks.{SIGNAL}.", f"attacks.{SIGNAL}=")))
    if not beside.extract and (own or beside.copies is not None):
        raise ConfigError(f"{'--copies' if beside.copies is not None else f'--set {own[0]}'}: goes with --extract")
    return replace(asked, changes=tuple(change for change in asked.changes if change not in own)), own


def extraction_of(beside: Beside, job: Job, folder: Path, changes: tuple[str, ...]) -> Prepared | None:
    """The extraction of the works of an audit, where one is asked for.

    Args:
        beside: what is asked.
        job: of the audit's scan.
        folder: of the audit.
        changes: of the extraction's job.

    Raises:
        ConfigError: there is no copy detector, or the model cannot be asked for images.
    """
    if not beside.extract:
        return None
    return prepare_beside(job, folder / EXTRACTION, Wanted(), beside.copies, (WORKS_SPLIT,), changes)
