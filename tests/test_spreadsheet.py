"""No cell of a table that raymia writes is a formula."""

from __future__ import annotations

import csv
import io

import pandas as pd
import pytest

from raymia.spreadsheet import csv_text, harmless


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "=cmd|' /C calc'!A0",
        "+1+1",
        "-2+3",
        "@SUM(A1)",
        "\t=1+1",
        "\r=1+1",
        "\n=1+1",
        "  =1+1",
        "\u00a0=1+1",
        "\uff1d1+1",
        "-",
        "+49 170 1234567",
        "-inf",
        "--1",
        "-1e",
    ],
)
def test_what_begins_like_a_formula_is_marked_as_text(text: str) -> None:
    assert harmless(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", " ", "loss.t=100", "a-b", "1", "-1", "+1.5", "-.5", "-1e-05", "3+4", "'=1", "é", "a\n=1"])
def test_what_does_not_stays_as_it_is_and_so_do_numbers(text: str) -> None:
    assert harmless(text) == text


def test_headings_and_cells_are_harmless_and_numbers_are_numbers() -> None:
    table = pd.DataFrame({"=HYPERLINK(1)": ["@x", None], "auc": [-0.5, float("nan")], "n": [-3, 4], 7: ["-1", 'a,"b"\n=c']})
    rows = list(csv.reader(io.StringIO(csv_text(table))))
    assert rows == [["'=HYPERLINK(1)", "auc", "n", "7"], ["'@x", "-0.5", "-3", "-1"], ["", "", "4", 'a,"b"\n=c']]
    assert list(table.columns) == ["=HYPERLINK(1)", "auc", "n", 7], "the table itself is as it was"
    assert csv_text(pd.DataFrame()) == pd.DataFrame().to_csv(index=False)
