"""Dates as people and cameras write them, each the days that it may mean: a year without a month is all of its days."""

from __future__ import annotations

import calendar
import datetime
import re
from dataclasses import dataclass

_ISO = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2})(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?)?)?)?")
_EXIF = re.compile(r"(\d{4}):(\d{2}):(\d{2})(?: \d{2}:\d{2}:\d{2}.*)?")
_IPTC = re.compile(r"(\d{4})(\d{2})(\d{2})")


@dataclass(frozen=True, order=True)
class Days:
    """The days that a date may mean.

    Attributes:
        first, last: the earliest and the latest of them.
    """

    first: datetime.date
    last: datetime.date

    def __str__(self) -> str:
        """The date as ISO 8601 writes it, as exactly as it is known."""
        if self.first == self.last:
            return self.first.isoformat()
        whole_year = (self.first.month, self.last.month) == (1, 12)
        return self.first.isoformat()[: 4 if whole_year else 7]


def parse_date(text: str) -> Days | None:
    """The days that a date of ISO 8601 may mean: a year, a month, a day, or a day with a time, whose zone is not looked at.

    None for what is no date.
    """
    return _days(_ISO.fullmatch(text.strip()))


def parse_file_date(text: str) -> Days | None:
    """The same of a date in a file: of ISO 8601, as EXIF has it (`2020:01:31 12:00:00`) or as IPTC has it (`20200131`)."""
    plain = text.strip().strip("\0")
    return _days(_IPTC.fullmatch(plain)) or parse_date(plain) or _days(_EXIF.fullmatch(plain))


def _days(found: re.Match[str] | None) -> Days | None:
    if found is None:
        return None
    year, month, day = (int(part) if part else None for part in found.groups())
    try:
        first = datetime.date(year or 0, month or 1, day or 1)
        if day:
            return Days(first, first)
        last_month = month or 12
        return Days(first, datetime.date(first.year, last_month, calendar.monthrange(first.year, last_month)[1]))
    except ValueError:
        return None
