"""An audit's page in a real browser: read by anybody, printed on a sheet, and on a phone."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from pypdf import PdfReader
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.print_page_options import PrintOptions

from raymia.evaluation.evidence import Evidence
from raymia.evidence.works import EVIDENCE_FILE
from raymia.report.page import REPORT_FILE
from tests.browsing import assert_fits, assert_quiet, open_page, seen_by

TERMS = (
    "p",
    "AUC",
    "ROC",
    "TPR",
    "FPR",
    "signal",
    "signals",
    "baseline",
    "baselines",
    "seed",
    "Welch",
    "median",
    "deviation",
    "significant",
    "units",
    "quarantined",
    "latent",
    "embedding",
    "prompt",
    "forwards",
    "member",
    "members",
    "split",
    "null",
)
"""Words that a person without statistics or machine learning does not know."""
PLAIN = (
    "What was asked",
    "How sure this is",
    "What this does not show",
    "Other explanations",
    "What can be known of this model",
)
"""Headings of the first page, in order."""


@pytest.fixture
def page(audited: Path, browser: webdriver.Chrome) -> Path:
    seen_by(browser, 1200)
    open_page(browser, audited / REPORT_FILE)
    return audited


def plain_part(browser: webdriver.Chrome) -> str:
    """What stands before the works, as it is seen."""
    text: str = browser.find_element(By.TAG_NAME, "body").text
    return text[: text.index("The works, one by one")]


def test_the_first_page_says_what_was_found_without_a_word_that_it_does_not_explain(
    browser: webdriver.Chrome, page: Path
) -> None:
    text = plain_part(browser)
    assert text.startswith("Were these works used to train testbed?")
    assert "An indication that they were" in text
    assert [heading for heading in PLAIN if heading in text] == list(PLAIN)
    assert sorted(text.index(heading) for heading in PLAIN) == [text.index(heading) for heading in PLAIN]
    words = set(re.findall(r"[A-Za-z]+", text))
    assert words.isdisjoint(TERMS), words.intersection(TERMS)
    assert_quiet(browser)


def test_every_work_is_shown_with_its_picture_the_highest_first(browser: webdriver.Chrome, page: Path) -> None:
    evidence = Evidence.model_validate_json((page / EVIDENCE_FILE).read_text())
    shown = browser.find_elements(By.CSS_SELECTOR, ".sheet.works li")
    assert [one.find_element(By.TAG_NAME, "small").text for one in shown] == [work.key for work in evidence.works]
    for picture in browser.find_elements(By.CSS_SELECTOR, ".sheet.works img"):
        browser.execute_script("arguments[0].scrollIntoView()", picture)  # type: ignore[no-untyped-call]
    widths = browser.execute_async_script(  # type: ignore[no-untyped-call]
        "const done = arguments[0], all = [...document.querySelectorAll('.sheet.works img')];"
        "Promise.all(all.map(one => one.decode())).then(() => done(all.map(one => one.naturalWidth)))"
    )
    assert len(widths) == len(evidence.works)
    assert all(width > 0 for width in widths)


def test_in_print_the_plain_part_is_one_sheet_and_the_works_begin_the_next(browser: webdriver.Chrome, page: Path) -> None:
    paper = PrintOptions()
    paper.page_width, paper.page_height = 21.0, 29.7
    sheets = [sheet.extract_text() for sheet in PdfReader(io.BytesIO(base64.b64decode(browser.print_page(paper)))).pages]
    text = [re.sub(r"\s+", " ", sheet) for sheet in sheets]
    assert text[0].startswith("Were these works used to train testbed?")
    assert all(heading in text[0] for heading in PLAIN)
    assert "The works, one by one" in text[1]
    checks = next(sheet for sheet in text if "For those who check this" in sheet)
    assert "p of the test that counts" in checks
    assert not any("Skip to the verdict" in sheet for sheet in text)
    assert_quiet(browser)


def test_what_needs_no_statistics_comes_first_and_the_rows_and_pairs_that_show_it_stand_below(
    browser: webdriver.Chrome, looked: Path
) -> None:
    seen_by(browser, 1200)
    open_page(browser, looked / REPORT_FILE)
    text = plain_part(browser)
    boxes = [one.text for one in browser.find_elements(By.CSS_SELECTOR, ".verdict .word")]
    assert boxes == [
        "6 of the 22 works stand in a public list of training pictures",
        "The model gave 6 of 22 works back",
        "An indication that they were",
    ]
    assert "The provider of testbed says that it was trained on Clip Art 2B." in text
    assert "1 of the control images stand in such a list, too." in text
    assert "22 of 24 control images came out after that; 1 came out before, and are not certainly unseen." in text
    assert set(re.findall(r"[A-Za-z]+", text)).isdisjoint(TERMS)
    rows = browser.find_elements(By.XPATH, "//h2[@id='listed']/following::table[1]/tbody/tr")
    assert [row.find_elements(By.TAG_NAME, "td")[0].text for row in rows] == ["sha256"] * 6
    pairs = browser.find_elements(By.CSS_SELECTOR, ".sheet.pairs li")
    assert ["came back" in pair.text for pair in pairs] == [True] * 6 + [False] * 16
    assert all(len(pair.find_elements(By.TAG_NAME, "img")) == 2 for pair in pairs)
    assert "seed" in pairs[0].text
    assert_quiet(browser)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(browser: webdriver.Chrome, audited: Path, scheme: str) -> None:
    seen_by(browser, 390, scheme)
    open_page(browser, audited / REPORT_FILE)
    assert_fits(browser, 390)
    assert_quiet(browser)
