"""Dates as people and cameras write them, each the days that it may mean: a year without a month is all of its days."""

from __future__ import annotations

import calendar
import datetime
import re
from dataclasses import dataclass

_ISO = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?")
_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?")
_EXIF = re.compile(r"(\d{4}):(\d{2}):(\d{2})(?: \d{2}:\d{2}:\d{2}.*)?")
_IPTC = re.compile(r"(\d{4})(\d{2})(\d{2})")
_BLANK = re.compile(r"[0\s:./T\0-]*")


@dataclass(frozen=True, order=True)
class Days:
    """The days that a date may mean.

    Attributes:
        first, last: the earliest and the latest of them.
    """

    first: datetime.date
    last: datetime.date

    def __str__(self) -> str:
        """The date as ISO 8601 writes it, as exactly as it is known; `parse_date` reads it back."""
        if self.first == self.last:
            return self.first.isoformat()
        for text in (self.first.isoformat()[:4], self.first.isoformat()[:7]):
            if parse_date(text) == self:
                return text
        return f"{self.first}/{self.last}"


def parse_date(text: str) -> Days | None:
    """The days that a date of ISO 8601 may mean: a year, a month, a day, a day with a time, or all from one date to another.

    A time with its zone is of two days where it is another day there than in UTC, since nobody knows by which of them
    it will be held against another date. A time without a zone is of the day that is written. None for what is no date.
    """
    plain = text.strip()
    if "/" in plain:
        first, last = (parse_date(part) if "/" not in part else None for part in plain.split("/", 1))
        return None if first is None or last is None or first.first > last.last else Days(first.first, last.last)
    return _of_moment(plain) if _MOMENT.fullmatch(plain) else _days(_ISO.fullmatch(plain))


def parse_file_date(text: str) -> Days | None:
    """The same of a date in a file: of ISO 8601, as EXIF has it (`2020:01:31 12:00:00`) or as IPTC has it (`20200131`)."""
    plain = text.strip().strip("\0")
    return _days(_IPTC.fullmatch(plain)) or parse_date(plain) or _days(_EXIF.fullmatch(plain))


def is_blank_date(text: str) -> bool:
    """Whether a date in a file says that it is not known, as EXIF has it: spaces or zeros in place of digits."""
    return _BLANK.fullmatch(text) is not None


def _of_moment(text: str) -> Days | None:
    try:
        moment = datetime.datetime.fromisoformat(text)
        there = moment.date()
        in_utc = there if moment.tzinfo is None else moment.astimezone(datetime.UTC).date()
    except (ValueError, OverflowError):
        return None
    return Days(min(there, in_utc), max(there, in_utc))


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
