"""What one work says of its dates and rights, by its table and by its file, and what of that contradicts."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping

from raymia.curation.credentials import Credentials, read_credentials
from raymia.curation.file_claims import RAW_DATA_MINING, FileClaims, file_claims
from raymia.curation.provider import ProviderClaims
from raymia.curation.works import Work
from raymia.data.dates import Days, parse_date, parse_file_date
from raymia.data.tar import Fault

WORDS = {"yes": "yes", "true": "yes", "1": "yes", "no": "no", "false": "no", "0": "no", "unknown": "unknown"}
"""What `reserved` of a table or a JSON may be, and what that means."""
SIDES = ("non_member", "suspect", "unclear")
"""First published after the cut-off for certain; before it or on its last day for certain; neither."""
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
        found: the sure ways in which a lookup found each work, by key and source; none where there was none.
        readable: whether Content Credentials can be read.
    """
    row = ClaimRow(work)
    row.published = row.date("published", work.facts.get("published"), parse_date)
    row.values["published_at"] = work.facts.get("published_at") or work.facts.get("url")
    if isinstance(work.content, Fault):
        row.faults["image"] = work.content.reason
    if isinstance(work.content, bytes):
        _of_file(row, file_claims(work.content), work.content, readable)
    _reserved(row, work.facts.get("reserved"))
    if found is not None:
        row.values["found_by"] = ", ".join(found.get((work.key, work.source), [])) or None
    if provider is not None and provider.cut_off_days is not None:
        row.values["side"] = side_of(row.published, provider.cut_off_days)
    row.contradictions |= dict(_contradictions(row, provider))
    return row


class ClaimRow:
    """A row of the table of claims, while it is put together.

    Attributes:
        values: texts by column.
        published, created: dates, where they are known.
        said: whether rights are reserved, by who says so.
        contradictions, faults: each with its words, by kind.
    """

    def __init__(self, work: Work) -> None:
        split, shard = work.place or (None, None)
        self.values: dict[str, str | None] = {"work": work.key, "source": work.source, "split": split, "shard": shard}
        self.published: Days | None = None
        self.created: Days | None = None
        self.said: dict[str, str] = {}
        self.contradictions: dict[str, str] = {}
        self.faults: dict[str, str] = {}

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
        return "non_member"
    return "suspect" if published is not None and published.last <= cut_off.first else "unclear"


def _contradictions(row: ClaimRow, provider: ProviderClaims | None) -> Iterator[tuple[str, str]]:
    published, created = row.published, row.created
    if published is not None and created is not None and created.first > published.last:
        yield "made_after_publication", f"its file says that it was made on {created}, and it was published on {published}"
    tomorrow = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=1)
    if published is not None and published.first > tomorrow:
        yield "published_in_the_future", f"published on {published}, a day to come"
    respected = provider is not None and provider.opt_outs_respected is not None and provider.opt_outs_respected.value
    if respected and row.values.get("side") == "suspect" and row.values["reserved"] == "yes" and row.values.get("found_by"):
        stood = f"rights were reserved, by {row.values['reserved_by']}, and it was published on {published}, before the cut-off"
        listed = f"the list names it ({row.values['found_by']})"
        yield "reserved_and_listed", f"{stood}; the provider says that reservations were respected, and {listed}"
