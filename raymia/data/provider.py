"""What the provider of a model says of its training data, as somebody wrote it down with where and when it was said."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from raymia.data.dates import Days, parse_date
from raymia.data.remote import UnreadableError, read_file
from raymia.documents import DocumentError, parse_yaml
from raymia.errors import ConfigError, describe_validation
from raymia.urls import public

T = TypeVar("T")
MAX_BYTES = 2**20


def _is_date(text: str) -> str:
    if parse_date(text) is None:
        raise ValueError('expected a date such as "2023", "2023-03" or "2023-03-31"')
    return text


def _is_day(text: str) -> str:
    days = parse_date(text)
    if days is None or days.first != days.last:
        raise ValueError('expected a day such as "2023-03-31"')
    if days.first > datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=1):
        raise ValueError("expected the day on which it was read, which is not to come")
    return text


def _is_address(text: str) -> str:
    if not text.lower().startswith(("http://", "https://")):
        raise ValueError("expected an address that begins with https:// or http://")
    return text


def _year(value: Any) -> Any:
    """A year is a whole number in YAML."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Date = Annotated[str, BeforeValidator(_year), AfterValidator(_is_date)]
Day = Annotated[str, AfterValidator(_is_day)]
Address = Annotated[str, AfterValidator(_is_address)]


class Said(BaseModel, Generic[T]):
    """Something that was said, with where and when it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: T
    source: Address = Field(description="Where it is said.")
    retrieved: Day = Field(description="When it was read there.")
    quote: str = Field("", description="The words themselves.")


class NamedSet(BaseModel):
    """A data set that the model was trained on, as its provider says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    released: Date | None = Field(None, description="When the data set came out.")
    source: Address
    retrieved: Day
    quote: str = ""


class ProviderClaims(BaseModel):
    """Contents of CLAIMS.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1, description="The model that all of this is said of.")
    provider: str = ""
    cut_off: Said[Date] | None = Field(None, description="The last day of which the training data are.")
    data_sets: tuple[NamedSet, ...] = ()
    summary_url: Said[Address] | None = Field(None, description="Where the provider's summary of its training content stands.")
    opt_outs_respected: Said[bool] | None = Field(None, description="Whether reservations of rights were respected.")

    @property
    def cut_off_days(self) -> Days | None:
        """The days that the cut-off may mean."""
        return None if self.cut_off is None else parse_date(self.cut_off.value)


def load_provider(path: str) -> ProviderClaims:
    """Read CLAIMS.yaml at a path or URL.

    Raises:
        ConfigError: it cannot be read, or says something else.
    """
    try:
        content = parse_yaml(read_file(path, MAX_BYTES))
    except UnreadableError as error:
        raise ConfigError(f"--provider {error.detail}") from error
    except DocumentError as error:
        raise ConfigError(f"--provider {public(path)}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--provider {public(path)}: expected fields, such as `model: NAME` and `cut_off: ..`")
    try:
        return ProviderClaims.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"--provider {public(path)}: {describe_validation(error, ProviderClaims)}") from error


def contradictions_of(provider: ProviderClaims) -> list[str]:
    """What a provider says against itself."""
    cut_off = provider.cut_off_days
    found = []
    for data_set in provider.data_sets:
        released = parse_date(data_set.released) if data_set.released is not None else None
        if cut_off is not None and released is not None and released.first > cut_off.last:
            found.append(
                f"the cut-off {cut_off} is before {data_set.name} was released, on {released}, which it names as trained on"
            )
    return found
