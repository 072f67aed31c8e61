"""What one work says of its dates and rights, by its table and by its file, and what of that contradicts."""

from __future__ import annotations

import datetime
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from raymia.curation.credentials import Credentials, read_credentials
from raymia.curation.file_claims import RAW_DATA_MINING, FileClaims, file_claims
from raymia.curation.told import CUT_URL
from raymia.curation.ways import SURE
from raymia.curation.works import Work
from raymia.data.dates import Days, parse_date, parse_file_date
from raymia.data.provider import ProviderClaims
from raymia.data.tar import Fault

WORDS = {"yes": "yes", "true": "yes", "1": "yes", "no": "no", "false": "no", "0": "no", "unknown": "unknown"}
"""What `reserved` of a table or a JSON may be, and what that means."""
NON_MEMBER, SUSPECT, UNCLEAR = SIDES = ("non_member", "suspect", "unclear")
"""First published after the cut-off for certain; before it or on its last day for certain; neither, or
something speaks against it."""
UNDOING = ("published_in_the_future", "late_and_listed")
"""Contradictions that leave nothing certain of a work that is said to be published after the cut-off."""
PLACES = ("published_at", "url", CUT_URL)
"""Where a work was published, by the facts that say so, the first counting."""
A_DAY = datetime.timedelta(days=1)
"""As much as two calendars may be apart: no contradiction."""
UNKNOWN = "unknown"
NOT_READ = "not read"
MAX_SHOWN = 60
"""Characters that are shown of what cannot be understood."""
TEXTS = ("credit", "creator", "rights", "usage_terms", "web_statement")
"""What a file says, as it stands there."""


def claims_of(
    work: Work, provider: ProviderClaims | None, found: Mapping[tuple[str, str], list[str]] | None, readable: bool
) -> ClaimRow:
    """What a work says, and what speaks against it.

    Args:
        work: with its image.
        provider: what a model's provider says; none where there is none.
        found: the ways in which a lookup found each work, by key and source; none where there was none.
        readable: whether Content Credentials can be read.
    """
    row = ClaimRow(work)
    row.published = row.date("published", work.facts.get("published"), parse_date)
    row.values["published_at"] = next((work.facts[name] for name in PLACES if name in work.facts), None)
    if isinstance(work.content, Fault):
        row.faults["image"] = work.content.reason
    if work.told_fault is not None:
        row.faults["json"] = work.told_fault.detail
    if isinstance(work.content, bytes):
        row.digest = hashlib.sha256(work.content).hexdigest()
        _of_file(row, file_claims(work.content), work.content, readable)
    _reserved(row, work.facts.get("reserved"))
    if found is not None:
        row.listed = tuple(found.get((work.key, work.source), ()))
        row.values["found_by"] = ", ".join(way for way in row.listed if way in SURE) or None
    if provider is not None and provider.cut_off_days is not None:
        row.values["side"] = side_of(row.published, provider.cut_off_days)
    row.contradictions |= dict(_contradictions(row, provider))
    if any(kind in row.contradictions for kind in UNDOING) and row.values.get("side") == NON_MEMBER:
        row.values["side"] = UNCLEAR
    return row


def settle(rows: Iterable[ClaimRow]) -> None:
    """Take those for unclear that would be non-members but whose very file is another work that is none."""
    by_file: dict[str, list[ClaimRow]] = defaultdict(list)
    for row in rows:
        if row.digest is not None and row.values.get("side") is not None:
            by_file[row.digest].append(row)
    for alike in by_file.values():
        other = next((row for row in alike if row.values["side"] != NON_MEMBER), None)
        for row in alike if other is not None else ():
            if other is not None and row.values["side"] == NON_MEMBER:
                row.values["side"] = UNCLEAR
                when = "of which no date is known" if other.published is None else f"published on {other.published}"
                row.contradictions["same_file"] = f"the same file is {other.values['source']}, {when}"


class ClaimRow:
    """A row of the table of claims, while it is put together.

    Attributes:
        values: texts by column.
        published, created: dates, where they are known.
        said: whether rights are reserved, by who says so.
        contradictions, faults: each with its words, by kind.
        listed: the ways in which a lookup found it.
        digest: of the image file; none without one.
    """

    def __init__(self, work: Work) -> None:
        split, shard = work.place or (None, None)
        self.values: dict[str, str | None] = {"work": work.key, "source": work.source, "split": split, "shard": shard}
        self.published: Days | None = None
        self.created: Days | None = None
        self.said: dict[str, str] = {}
        self.contradictions: dict[str, str] = {}
        self.faults: dict[str, str] = {}
        self.listed: tuple[str, ...] = ()
        self.digest: str | None = None

    def date(self, name: str, text: str | None, parse: Callable[[str], Days | None]) -> Days | None:
        """Note a date; one that cannot be read is none and a fault."""
        if text is None:
            return None
        days = parse(text)
        if days is None:
            self.faults[name] = f"no date that is understood: {text[:MAX_SHOWN]!r}"
        self.values[name] = None if days is None else str(days)
        return days

    def content(self) -> dict[str, object]:
        """The row as the table has it."""
        faults = [f"{name}: {why}" for name, why in self.faults.items()]
        return {**self.values, "contradictions": list(self.contradictions.values()), "faults": faults}


def _of_file(row: ClaimRow, said: FileClaims, content: bytes, readable: bool) -> None:
    """Note what the file says, and its Content Credentials where they can be read."""
    row.faults |= said.faults
    row.created = row.date("created", said.fields.get("created"), parse_file_date)
    row.values["created_by"] = said.said_by.get("created") if row.created is not None else None
    mining = said.fields.get("data_mining", "").removeprefix(RAW_DATA_MINING)
    row.values |= {name: said.fields.get(name) for name in TEXTS} | {"data_mining": mining or None}
    if mining.startswith("DMI-PROHIBITED"):
        row.said["plus:DataMining"] = "yes"
    elif mining == "DMI-ALLOWED":
        row.said["plus:DataMining"] = "no"
    elif mining and mining != "DMI-UNSPECIFIED":
        row.faults["data_mining"] = f"none of the values of plus:DataMining: {mining[:MAX_SHOWN]!r}"
    credentials = read_credentials(content) if said.has_credentials and readable else None
    if credentials is not None:
        _of_credentials(row, credentials)
    elif said.has_credentials:
        row.values["credentials"] = NOT_READ


def _of_credentials(row: ClaimRow, credentials: Credentials) -> None:
    row.values["credentials"] = credentials.state or NOT_READ
    row.values["signer"] = credentials.signer or None
    if credentials.fault:
        row.faults["credentials"] = credentials.fault
    elif credentials.state not in ("Valid", "Trusted"):
        row.faults["credentials"] = "the signature does not hold; what they say counts for nothing"
    elif credentials.training is not None:
        row.values["training"] = credentials.training
        row.said["C2PA"] = "no" if credentials.training == "allowed" else "yes"


def _reserved(row: ClaimRow, told: str | None) -> None:
    """Note whether rights are reserved: what a table or JSON says of the day of publication, and else what the file says."""
    word = WORDS.get(told.strip().lower()) if told is not None else UNKNOWN
    if word is None:
        row.faults["reserved"] = f"expected yes, no or unknown, found {(told or '')[:MAX_SHOWN]!r}"
    said = ({"table": word} if word in ("yes", "no") else {}) | row.said
    if len({*said.values()}) > 1:
        row.contradictions["reservations_disagree"] = "whether rights are reserved: " + ", ".join(
            f"{value} by {by}" for by, value in said.items()
        )
    by = next(iter(said), None)
    row.values["reserved"], row.values["reserved_by"] = (UNKNOWN if by is None else said[by]), by


def side_of(published: Days | None, cut_off: Days) -> str:
    """On which side of the last day of the training data a work was first published; one of `SIDES`."""
    if published is not None and published.first > cut_off.last:
        return NON_MEMBER
    return SUSPECT if published is not None and published.last <= cut_off.first else UNCLEAR


def _contradictions(row: ClaimRow, provider: ProviderClaims | None) -> Iterator[tuple[str, str]]:
    published, created = row.published, row.created
    if published is not None and created is not None and created.first - A_DAY > published.last:
        yield "made_after_publication", f"its file says that it was made on {created}, and it was published on {published}"
    if published is not None and published.first > datetime.datetime.now(datetime.UTC).date() + A_DAY:
        yield "published_in_the_future", f"published on {published}, a day to come"
    if row.values.get("side") == NON_MEMBER and row.listed:
        late = f"it is said to be published on {published}, after the cut-off"
        yield "late_and_listed", f"{late}, and the list names it ({', '.join(row.listed)})"
    respected = provider is not None and provider.opt_outs_respected is not None and provider.opt_outs_respected.value
    if respected and row.values.get("side") == SUSPECT and row.values["reserved"] == "yes" and row.values.get("found_by"):
        stood = f"rights were reserved, by {row.values['reserved_by']}, and it was published on {published}, before the cut-off"
        listed = f"the list names it ({row.values['found_by']})"
        yield "reserved_and_listed", f"{stood}; the provider says that reservations were respected, and {listed}"
