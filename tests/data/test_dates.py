"""Dates are the days that they may mean, and what is no date is none."""

from __future__ import annotations

import datetime

import pytest

from raymia.data.dates import is_blank_date, parse_date, parse_file_date


@pytest.mark.parametrize(
    ("text", "first", "last", "shown"),
    [
        ("2023", "2023-01-01", "2023-12-31", "2023"),
        ("2024-02", "2024-02-01", "2024-02-29", "2024-02"),
        ("2023-12", "2023-12-01", "2023-12-31", "2023-12"),
        (" 2023-03-31 ", "2023-03-31", "2023-03-31", "2023-03-31"),
        ("2023-03-31T23:59:59.5+02:00", "2023-03-31", "2023-03-31", "2023-03-31"),
        ("2023-03-31T23:59", "2023-03-31", "2023-03-31", "2023-03-31"),
        # Another day in UTC than there, on either side of the world.
        ("2024-01-01T00:30:00+14:00", "2023-12-31", "2024-01-01", "2023-12-31/2024-01-01"),
        ("2023-12-31 20:00:00-0800", "2023-12-31", "2024-01-01", "2023-12-31/2024-01-01"),
        ("2023-03-15/2023-04", "2023-03-15", "2023-04-30", "2023-03-15/2023-04-30"),
        ("2023-01/2023-12", "2023-01-01", "2023-12-31", "2023"),
    ],
)
def test_a_date_is_all_the_days_that_it_may_mean(text: str, first: str, last: str, shown: str) -> None:
    days = parse_date(text)
    assert days is not None
    assert (days.first, days.last) == (datetime.date.fromisoformat(first), datetime.date.fromisoformat(last))
    assert str(days) == shown
    assert parse_date(shown) == days


@pytest.mark.parametrize(
    "text",
    [
        "",
        "31.3.2023",
        "2023-13",
        "2023-02-29",
        "0000",
        "2023-3-1",
        "20230331",
        "2023:03:31",
        "March",
        "2023-03-31x",
        "2023-03-31T25:00",
        "2023-03-31T10:00+99:00",
        "0001-01-01T00:00+14:00",
        "2024/2023",
        "2023/2024/2025",
        "/2023",
    ],
)
def test_what_is_no_date_of_iso_8601_is_none(text: str) -> None:
    assert parse_date(text) is None


def test_dates_in_files_are_read_as_exif_and_iptc_write_them() -> None:
    written = ("2023:03:31 10:00:00", "20230331", "2023-03-31T10:00", "2023:03:31\0")
    assert {str(parse_file_date(text)) for text in written} == {"2023-03-31"}
    assert parse_file_date("0000:00:00 00:00:00") is None
    # So a camera says that it does not know.
    assert all(map(is_blank_date, ("0000:00:00 00:00:00", "    :  :     :  :  ", "00000000", "")))
    assert not any(map(is_blank_date, ("2000:00:00", "spring")))
